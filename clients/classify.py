"""`python -m clients.classify IMAGE…`: print the digit in each picture."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

import imaging
from clients.access import AccessOptions
from clients.answers import Prediction
from clients.calls import DEFAULT_TIMEOUT_S
from clients.client import DigitClient
from clients.errors import DigitError


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Picture files, one digit in each, which fills most of a square picture. A mostly light picture is taken for dark
    ink on paper; every size is scaled to 28 x 28."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the server."""

    top_k: int = 3
    """How many candidates to show per picture, 1 to 10."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds after which a call is given up."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)


def classify(options: Options) -> bool:
    """Print one line per picture; returns whether all were classified."""
    width = max(len(str(path)) for path in options.pictures)
    head = f"{'picture':{width}}  digit  probability  candidates"
    complete = True
    tls, token = options.access.tls(), options.access.token()
    with DigitClient(options.address, timeout_s=options.timeout_s, tls=tls, token=token) as client:
        for path in options.pictures:
            try:
                (digit,) = imaging.read(path.read_bytes())
                answer = client.classify(digit.pixels, top_k=options.top_k)
                if head:
                    print(head)
                    head = ""
                print(f"{path!s:{width}}  {_row(answer.predictions[0])}")
            except ModuleNotFoundError as error:
                raise DigitError(f"{error.name} is not installed; `pip install '.[pictures]'` brings it") from error
            except OSError as error:
                complete = False
                print(f"error: {path}: cannot be read: {error.strerror}", file=sys.stderr)
            except imaging.PictureError as error:
                complete = False
                print(f"error: {path}: {error}", file=sys.stderr)
    return complete


def _row(prediction: Prediction) -> str:
    candidates = ", ".join(f"{each.digit} {each.probability:.1%}" for each in prediction.top)
    return f"{prediction.digit:5}  {prediction.probability:11.2%}  {candidates}"


def main() -> int:
    """Exit status: 0 when every picture was classified, 1 when some could not be, or no server answered."""
    options = tyro.cli(Options, prog="python -m clients.classify", description=__doc__)
    if not options.pictures:
        print("error: no pictures were named; name at least one file", file=sys.stderr)
        return 1
    if not 1 <= options.top_k <= 10:
        print(f"error: --top-k is {options.top_k}; 1 to 10 was expected", file=sys.stderr)
        return 1
    try:
        return 0 if classify(options) else 1
    except DigitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
