"""`python -m benchmarks.robustness`: accuracy from picture to digit over the wire, on photographs, scans and drawings.

`benchmarks.pictures` writes MNIST's test digits again with other pens on other surfaces and hands them over as files;
`imaging.read` makes pixels of each, one at a time, and a server in a process of its own answers one call for each.
Nothing here was seen in training, and nothing was tuned on these pictures.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

import imaging
from benchmarks.pictures import STYLES, Maker, Picture
from benchmarks.pictures.sheet import Entry, contact_sheet
from bundle import Bundle, BundleError
from clients import DigitClient
from serve.errors import StartupError
from serve.process import server_process
from train.conditions import conditions
from train.errors import TrainError
from train.report.metrics import proportion
from train.storage import make_folder, save_json

LIBRARIES = ("grpcio", "numpy", "onnxruntime", "opencv-python-headless", "pillow", "protobuf")

_ON_A_SHEET = 100
_MISREAD_ON_A_SHEET = 300


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("pretrained/champion")
    """What to serve."""

    pictures: Annotated[int, tyro.conf.arg(metavar="N")] = 2_000
    """Pictures of each style."""

    seed: int = 0
    """Another one makes other pictures."""

    sheet: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """Where to put a contact sheet of each style, and one of what was misread with what the network saw: the style,
    or `misread`, is added to the name."""

    output: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("benchmarks/results/robustness.json")
    """Where the result is written."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What became of a picture.

    Attributes:
        label: The digit that it shows.
        factors: What it is like.
        pixels: What the network saw; None if the picture was refused.
        warned: Whether reading it was said to be doubtful.
        digit: The answer; None if the picture was refused.
        probability: How sure the network was of it.
        read_ms: Milliseconds from file to pixels.
        call_ms: Milliseconds of the call.
    """

    label: int
    factors: dict[str, str]
    pixels: npt.NDArray[np.uint8] | None = None
    warned: bool = False
    digit: int | None = None
    probability: float = 0.0
    read_ms: float
    call_ms: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the answer is the digit in the picture."""
        return self.digit == self.label


def read(picture: Picture, client: DigitClient) -> Reading:
    """Sends a picture as a caller does."""
    about: dict[str, Any] = {"label": picture.label, "factors": picture.factors}
    started = time.perf_counter()
    try:
        (digit,) = imaging.read(picture.data)
    except imaging.PictureError:
        return Reading(**about, read_ms=1e3 * (time.perf_counter() - started))
    prepared = time.perf_counter()
    (answer,) = client.classify(digit.pixels).predictions
    return Reading(
        **about,
        pixels=digit.pixels,
        warned=bool(digit.warnings),
        digit=answer.digit,
        probability=answer.probability,
        read_ms=1e3 * (prepared - started),
        call_ms=1e3 * (time.perf_counter() - prepared),
    )


def summary(seen: Sequence[Reading]) -> dict[str, Any]:
    """The figures of one style."""
    accuracy = proportion(sum(each.right for each in seen), len(seen))
    wrong = [each for each in seen if not each.right]
    return {
        "pictures": len(seen),
        "accuracy": accuracy.value,
        "accuracy, 95 % interval": [accuracy.low, accuracy.high],
        "read, mean ms": round(statistics.fmean(each.read_ms for each in seen), 2),
        "call, mean ms": round(statistics.fmean(each.call_ms for each in seen), 2),
        "refused": sum(each.digit is None for each in seen),
        "warned of": sum(each.warned for each in seen),
        "misread": len(wrong),
        "misread, warned of": sum(each.warned for each in wrong),
        "factors": _by_factor(seen),
    }


def _by_factor(seen: Sequence[Reading]) -> dict[str, dict[str, dict[str, float]]]:
    """Pictures and accuracy for each value of each factor."""
    total: dict[str, Counter[str]] = {}
    right: dict[str, Counter[str]] = {}
    for each in seen:
        for name, value in (each.factors | {"shows": str(each.label)}).items():
            total.setdefault(name, Counter())[value] += 1
            right.setdefault(name, Counter())[value] += each.right
    return {
        name: {
            value: {"pictures": count, "accuracy": round(right[name][value] / count, 4)}
            for value, count in sorted(values.items())
        }
        for name, values in total.items()
    }


def as_mnist_has_them(maker: Maker, style: str, count: int, client: DigitClient) -> float:
    """Accuracy on the very same digits without the way through a picture: more cannot be expected."""
    which = maker.order(style)[:count]
    right = [
        client.classify(maker.pixels[part]).digits == maker.labels[part]
        for part in np.array_split(which, -(-len(which) // 64))
    ]
    return float(np.concatenate(right).mean())


def measure(options: Options) -> dict[str, Any]:
    """All styles over one server; writes the sheets on the way."""
    maker = Maker.of_mnist(seed=options.seed)
    styles: dict[str, Any] = {}
    misread: list[Entry] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        server_process(options.bundle, log=Path(folder, "log")) as server,
        DigitClient(server.address) as client,
    ):
        for style in STYLES:
            seen: list[Reading] = []
            shown: list[Entry] = []
            for index in tqdm(range(options.pictures), style, leave=False, disable=None):
                picture = maker.picture(style, index)
                reading = read(picture, client)
                seen.append(reading)
                if len(shown) < _ON_A_SHEET:
                    shown.append(_entry(picture, reading))
                if not reading.right and len(misread) < _MISREAD_ON_A_SHEET:
                    misread.append(_entry(picture, reading, with_pixels=True))
            styles[style] = summary(seen) | {
                "accuracy as MNIST has them": as_mnist_has_them(maker, style, options.pictures, client)
            }
            print(_line(style, styles[style]), flush=True)
            if options.sheet:
                contact_sheet(shown).save(_beside(options.sheet, style))
    if options.sheet:
        contact_sheet(misread).save(_beside(options.sheet, "misread"))
    model = Bundle.open(options.bundle).manifest
    return {
        "styles": styles,
        "conditions": conditions(LIBRARIES)
        | {"model": model.name, "version": model.version, "seed": options.seed, "device": "cpu"},
    }


def _entry(picture: Picture, reading: Reading, *, with_pixels: bool = False) -> Entry:
    answer = "refused" if reading.digit is None else f"{reading.digit} {reading.probability:.0%}"
    return Entry(
        data=picture.data,
        caption=f"{picture.label}: {answer}" + (", warned" if reading.warned else ""),
        pixels=reading.pixels if with_pixels else None,
    )


def _beside(path: Path, what: str) -> Path:
    return path.with_stem(f"{path.stem}-{what}")


def _line(style: str, figures: dict[str, Any]) -> str:
    low, high = figures["accuracy, 95 % interval"]
    return (
        f"{style:8} {figures['accuracy']:.2%} right ({low:.2%} to {high:.2%}), "
        f"{figures['accuracy as MNIST has them']:.2%} as MNIST has them; "
        f"{figures['read, mean ms']} ms to read, {figures['call, mean ms']} ms to call"
    )


def main() -> int:
    """Exit status: 0, or 1 after a message."""
    options = tyro.cli(Options, prog="python -m benchmarks.robustness", description=__doc__)
    try:
        make_folder(options.output.parent, "choose another file with --output")
        save_json(options.output, measure(options))
    except (BundleError, StartupError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
