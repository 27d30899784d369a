"""`python -m benchmarks.hard_cases`: draw the hard cases of docs/pictures.md, and what `imaging` makes of each.

The digits are MNIST's test images, written anew on papers of all kinds; DIGITS_DATA_ROOT says where they are.
"""

import functools
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from imaging.figure import explained
from imaging.reader import trace
from serve.engines.onnx_runtime import open_onnx_runtime
from train import data

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "hard_cases"
MODEL = ROOT / "pretrained" / "champion" / "model.onnx"

Paper = npt.NDArray[np.float32]
"""float32 [height, width, 3], 0 to 255."""

# Places in MNIST's test set, of a digit each that is written clearly.
PLACES = {0: 3, 1: 2, 2: 1, 3: 18, 4: 4, 5: 15, 6: 21, 7: 0, 8: 61, 9: 7}


def paper(height: int, width: int, tone: tuple[int, int, int], grain: float) -> Paper:
    """Paper with grain."""
    noise = np.random.default_rng(0).normal(0, grain, (height, width, 1))
    return (
        np.array(tone, np.float32) + cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 0.8)[:, :, None] * 2
    ).astype(np.float32)


@functools.cache
def _test_images() -> npt.NDArray[np.uint8]:
    return data.load("mnist").test.pixels[:, 0].numpy()


def written(digit: int, size: int, thinner: int = 0) -> npt.NDArray[np.float32]:
    """How much ink there is, 0 to 1, [size, size] for MNIST's 28 x 28; `thinner` takes pixels off the strokes."""
    image = _test_images()[PLACES[digit]]
    large = cv2.GaussianBlur(cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC), (0, 0), size / 90)
    ink = ((large.astype(np.float32) - 90) / 40).clip(0, 1)
    return np.asarray(cv2.erode(ink, np.ones((thinner, thinner), np.uint8)) if thinner else ink, np.float32)


def write(on: Paper, ink: npt.NDArray[np.float32], left: int, top: int, tone: tuple[int, int, int]) -> Paper:
    """The paper with ink on it."""
    height, width = ink.shape
    part = on[top : top + height, left : left + width]
    part += ink[:, :, None] * (np.array(tone, np.float32) - part)
    return on


def light(on: Paper, *, fall: float = 0.0, shadow: float = 0.0, blur: float = 2.0) -> Paper:
    """Light that falls off to the right, and a shadow from corner to corner."""
    height, width = on.shape[:2]
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    dark = cv2.GaussianBlur((across + 0.6 * down > 0.9).astype(np.float32), (0, 0), blur)
    return np.asarray(on * ((1 - fall * across) * (1 - shadow * dark))[:, :, None], np.float32)


def ruled(on: Paper, step: int, *, squared: bool) -> Paper:
    """The paper with blue lines that run a little downhill."""
    for y in range(step // 2, on.shape[0], step):
        cv2.line(on, (0, y), (on.shape[1], y + 7), (140, 160, 205), 2, cv2.LINE_AA)
    for x in range(step // 2, on.shape[1] if squared else 0, step):
        cv2.line(on, (x, 0), (x - 7, on.shape[0]), (140, 160, 205), 2, cv2.LINE_AA)
    return on


def on_table(sheet: Paper, degrees: float) -> Paper:
    """The sheet, turned, on a wooden table, with its shadow."""
    height, width = sheet.shape[:2]
    table = paper(height, width, (120, 85, 55), 5)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.75)
    covered = cv2.warpAffine(np.ones((height, width), np.float32), turn, (width, height))[:, :, None]
    shadow = cv2.GaussianBlur(np.roll(covered, (8, 10), (0, 1)), (0, 0), 6)[:, :, None]
    return np.asarray(
        table * (1 - 0.4 * shadow) * (1 - covered) + cv2.warpAffine(sheet, turn, (width, height)) * covered, np.float32
    )


def _form() -> Paper:
    page = paper(360, 640, (238, 236, 230), 2)
    for index, digit in enumerate((4, 0, 7)):
        cv2.rectangle(page, (70 + 170 * index, 100), (220 + 170 * index, 260), (70, 70, 70), 3)
        write(page, written(digit, 130, 3), 80 + 170 * index, 115, (30, 40, 120))
    return page


def _lines() -> Paper:
    page = ruled(paper(480, 640, (235, 233, 225), 2), 48, squared=False)
    for row, line in enumerate(((3, 1, 4, 1, 5), (9, 2, 6), (5, 3, 5, 8))):
        for column, digit in enumerate(line):
            write(page, written(digit, 110, 2), 40 + 112 * column, 20 + 150 * row, (40, 40, 70))
    return light(page, fall=0.3, shadow=0.35)


def _hairline() -> Paper:
    page = paper(500, 500, (255, 255, 255), 0)
    for centre, axes in (((330, 190), (45, 55)), ((322, 310), (58, 65))):
        cv2.ellipse(page, centre, axes, 8, 0, 360, (0, 0, 0), 1, cv2.LINE_AA)
    return page


def _pencil() -> Paper:
    page = paper(480, 640, (214, 211, 204), 4)
    return light(write(page, written(2, 260, 14), 190, 100, (160, 160, 160)), fall=0.3)


def _board() -> Paper:
    page = paper(480, 640, (45, 62, 52), 3)
    smear = np.random.default_rng(1).normal(0, 1, (12, 16)).astype(np.float32)
    page += np.abs(cv2.resize(smear, (640, 480), interpolation=cv2.INTER_CUBIC))[:, :, None] * 16
    return write(page, written(9, 280, 6), 180, 90, (228, 226, 210))


CASES: dict[str, tuple[Callable[[], Paper], bool]] = {
    "shadow": (
        lambda: light(write(paper(480, 640, (225, 222, 215), 3), written(5, 300, 8), 180, 80, (40, 40, 50)),
                      fall=0.4, shadow=0.5),
        False,
    ),
    "pencil": (_pencil, False),
    "squared": (
        lambda: light(write(ruled(paper(480, 640, (232, 232, 228), 2), 40, squared=True), written(4, 240, 8),
                            210, 110, (30, 45, 120)), fall=0.3),
        False,
    ),
    "table": (
        lambda: on_table(write(paper(480, 640, (228, 226, 220), 3), written(3, 220, 6), 260, 130, (30, 30, 40)), 9),
        False,
    ),
    "note": (
        lambda: light(write(paper(480, 480, (245, 225, 90), 2), written(6, 300, 10), 90, 90, (205, 60, 60)), fall=0.3),
        False,
    ),
    "board": (_board, False),
    "hairline": (_hairline, False),
    "crop": (
        lambda: write(paper(180, 150, (20, 22, 28), 0), written(0, 252)[30:210, 50:200], 0, 0, (235, 232, 225)),
        False,
    ),
    "form": (_form, True),
    "lines": (_lines, True),
}  # fmt: skip


def main() -> None:
    """Write docs/hard_cases/NAME.webp for each case."""
    DOCS.mkdir(exist_ok=True)
    with open_onnx_runtime(MODEL.read_bytes()) as engine:
        for name, (draw, many) in CASES.items():
            file = io.BytesIO()
            Image.fromarray(draw().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
            reading = trace(file.getvalue(), many=many)
            pixels = np.stack([digit.pixels for digit in reading.digits])[:, None]
            labels = [str(digit) for digit in engine.run(pixels).argmax(axis=1)]
            explained(reading, labels).save(DOCS / f"{name}.webp", quality=80, method=6)
            print(f"{name}: {''.join(labels)}")


if __name__ == "__main__":
    main()
