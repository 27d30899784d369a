"""The latency benchmark: `python -m clients.benchmark`, and its commands `compare`, `engines` and `loadgen`.

    options ──▶ measure ──orders──▶ worker (processes) ──windows──▶ tally ──▶ document ──▶ table, plots, compare

What it never does: leave out a request that was planned, a window that was measured, or a call that failed; measure
latency from the moment at which a request could be sent instead of the one at which it was due; name a percentile that
the number of requests does not support.
"""
