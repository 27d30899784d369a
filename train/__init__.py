"""Training: from a data set of handwritten digits to a checkpoint.

Run it with `python -m train RECIPE`. What leaves this package is a file, `best.pt`, described in
`train.checkpoint`; nothing here knows how a checkpoint is exported or served.
"""
