"""`python -m clients.benchmark`: latency and throughput of a running server.

Closed loop (--concurrency): so many requests are under way at any time. Open loop (--rate, --slo): requests are due at
times that do not depend on the server, and latency counts from when a request was due: a server that stalls does not
slow down what measures it. Failed requests are counted by code, retried never.

Other commands: `python -m clients.benchmark compare|engines|loadgen --help`.
"""

import asyncio
import dataclasses
import importlib
import os
import platform
import sys
import time

import grpc
import tyro

from clients.errors import DigitError

PROGRAM = "python -m clients.benchmark"

COMMANDS = ("compare", "engines", "loadgen")


def main() -> int:
    """Exit status: 0 when every request was answered, 1 when some failed or none was measured, 130 after Ctrl-C.

    Requests that fail in the search for the highest rate are what it looks for, and no failure.
    """
    words = sys.argv[1:]
    try:
        if words and words[0] in COMMANDS:
            return int(importlib.import_module(f"clients.benchmark.{words[0]}").main(words[1:]))
        return benchmark(words)
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; `pip install '.[benchmark]'` brings it", file=sys.stderr)
        return 1
    except (DigitError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def benchmark(words: list[str]) -> int:
    """Load a server, and say what was seen."""
    from clients.benchmark import calls, document, measure, plots, table
    from clients.benchmark.options import Options

    options = tyro.cli(Options, prog=PROGRAM, description=__doc__, args=words)
    if options.plots is not None:
        plots.check()
    target = calls.find_target(
        options.address,
        options.protocol,
        model=options.model,
        images=options.images,
        streams=options.streams > 0,
        seed=options.seed,
        tls=options.access.tls(),
        token=options.access.token(),
    )
    started = time.time()
    findings, failure = measure.Findings(), None
    try:
        asyncio.run(measure.run(options, target, findings, lambda line: print(line, file=sys.stderr, flush=True)))
    except DigitError as error:
        if not findings.levels:
            raise
        failure = error  # of one measurement, after others that are worth showing
    found = document.Document(
        command=[*PROGRAM.split(), *words],
        options=_plain(dataclasses.asdict(options)),
        conditions={
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": time.time() - started,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
        },
        server=target.server,
        **vars(findings),
    )
    print(table.render(found))
    if options.json is not None:
        document.save(options.json, found)
    if options.plots is not None:
        plots.draw(found, options.plots)
    if failure is not None:
        raise failure
    if found.interrupted:
        return 130
    if options.searches:
        return 0 if found.levels[0].answered else 1
    return 1 if any(level.errors or not level.answered for level in found.levels) else 0


def _plain(options: dict[str, object]) -> dict[str, object]:
    """The options as JSON has them; of the access only whether there is encryption, and no file names."""
    access = options.pop("access")
    encrypted = isinstance(access, dict) and access["tls_root"] is not None
    return {name: str(value) if isinstance(value, os.PathLike) else value for name, value in options.items()} | {
        "access": "TLS" if encrypted else "plain text"
    }


if __name__ == "__main__":
    sys.exit(main())
