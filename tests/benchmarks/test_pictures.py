"""The pictures of the robustness benchmark: reproducible files of every kind, of the digits that they claim."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.pictures import STYLES, Maker, Picture
from benchmarks.pictures.pens import PENS, SURFACES
from benchmarks.pictures.strokes import scale, trace
from benchmarks.report import robustness_table
from benchmarks.robustness import Options, measure
from bundle import Bundle
from clients import DigitClient
from serve.probe import Probe
from serve.process import server_process

CHAMPION = Path(__file__).resolve().parents[2] / "pretrained/champion"

# How often pictures as other people would take them are read rightly at least; the benchmark has the figures.
LEAST_ACCURACY = 0.8


@pytest.fixture(scope="module")
def maker() -> Maker:
    """Of the 200 test digits that come with the champion."""
    probe = Probe.of(Bundle.open(CHAMPION))
    assert probe is not None
    return Maker(probe.pixels.reshape(-1, 28, 28), probe.labels.astype(np.int64))


@pytest.fixture(scope="module")
def pictures(maker: Maker) -> dict[str, list[Picture]]:
    return {style: [maker.picture(style, index) for index in range(60)] for style in STYLES}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DigitClient]:
    with (
        server_process(CHAMPION, log=tmp_path_factory.mktemp("server") / "log") as server,
        DigitClient(server.address) as client,
    ):
        yield client


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_depends_on_seed_style_and_number_alone(style: str, maker: Maker, pictures) -> None:
    same, other = (Maker(maker.pixels, maker.labels, seed=seed) for seed in (0, 1))
    for index in (7, 3):
        again = same.picture(style, index)
        first = pictures[style][index]
        assert (again.data, again.label, again.factors) == (first.data, first.label, first.factors)
        assert other.picture(style, index).data != again.data


@pytest.mark.parametrize("style", STYLES)
def test_every_picture_is_a_file_that_can_be_opened_and_shows_something(style: str, pictures) -> None:
    for picture in pictures[style]:
        with Image.open(io.BytesIO(picture.data)) as image:
            assert min(image.size) >= 40
            assert max(image.size) <= 4000
            seen = np.asarray(image.convert("RGBA"), np.int16)
        assert np.ptp(seen, axis=(0, 1)).max() > 20, picture.factors


def test_all_kinds_occur(pictures) -> None:
    def kinds(style: str, factor: str) -> set[str]:
        return {picture.factors[factor] for picture in pictures[style]}

    assert kinds("photo", "pen") == set(PENS)
    assert kinds("photo", "surface") == set(SURFACES)
    assert kinds("photo", "ruling") == {"none", "lined", "squared", "dotted"}
    assert kinds("photo", "light") == {"even", "gradient", "shadow", "lamp"}
    assert kinds("photo", "focus") == {"sharp", "soft", "defocused", "shaken"}
    assert kinds("photo", "orientation") == {"upright", "turned by its tag"}
    assert kinds("scan", "form") == {"none", "box", "comb", "line", "touched box", "squared"}
    assert kinds("scan", "depth") == {"bilevel", "grey", "colour"}
    assert kinds("scan", "file") == {"JPEG", "PNG", "TIFF", "PNG, bilevel", "TIFF, bilevel"}
    assert kinds("drawing", "theme") == {"paper", "dark mode", "colours", "transparent"}
    assert kinds("drawing", "file") == {"PNG", "PNG, palette", "WEBP", "GIF", "BMP", "JPEG"}
    for style in STYLES:
        assert kinds(style, "digit") == {"small", "medium", "large"}
        assert kinds(style, "line") == {"thin", "medium", "thick"}
        assert kinds(style, "polarity") == {"dark on light", "light on dark"}
        assert {picture.label for picture in pictures[style]} == set(range(10))


@pytest.mark.parametrize("style", STYLES)
def test_the_pictures_of_a_style_show_every_digit_once(style: str, maker: Maker) -> None:
    assert sorted(maker.order(style)) == list(range(len(maker.labels)))


@pytest.mark.parametrize("width", [0.04, 0.12])
def test_what_any_pen_writes_along_the_strokes_is_still_the_digit(width: float, maker: Maker, client) -> None:
    answers = client.classify(np.stack([plainly(pixels, width) for pixels in maker.pixels]))
    assert (answers.digits == maker.labels).mean() >= 0.97


def plainly(pixels: np.ndarray, width: float) -> np.ndarray:
    """A digit written again with some pen, and thickened and placed as MNIST's are."""
    side, size = 280, 190
    view = np.array([[size, 0, side / 2], [0, size, side / 2], [0, 0, 1.0]])
    away = trace(pixels).field(view, (side, side), width=width)
    ink = np.clip(0.5 - (away - max(0.0, 0.1 - width) / 2 * size), 0, 1).astype(np.float32)
    moments = cv2.moments(ink)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    middle = np.array([[1, 0, side / 2 - x], [0, 1, side / 2 - y]])
    centred = cv2.GaussianBlur(cv2.warpAffine(ink, middle, (side, side)), (0, 0), 4)
    return np.rint(255 * cv2.resize(centred, (28, 28), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def test_a_line_has_the_width_that_was_asked_for_however_thin(maker: Maker) -> None:
    one = next(pixels for pixels, label in zip(maker.pixels, maker.labels, strict=True) if label == 1)
    view = np.array([[800, 40, 500], [-40, 800, 500], [0.01, 0.02, 1.0]])
    for pixels_wide in (2.0, 12.0):
        away = trace(one).field(view, (1000, 1000), width=pixels_wide / scale(view))
        (rows,) = np.nonzero((away < 0).any(axis=1))
        inner = away[rows[40] : rows[-40]]
        assert np.median((inner < 0).sum(axis=1)) == pytest.approx(pixels_wide, rel=0.6)
        assert (inner < 0).any(axis=1).all(), "the line has gaps"


def test_from_pictures_to_digits_over_the_wire(maker: Maker, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Maker, "of_mnist", lambda seed: maker)
    result = measure(Options(bundle=CHAMPION, pictures=25, sheet=tmp_path / "sheet.png"))
    assert list(result["styles"]) == list(STYLES)
    for style, figures in result["styles"].items():
        low, high = figures["accuracy, 95 % interval"]
        assert LEAST_ACCURACY <= figures["accuracy"] <= figures["accuracy as MNIST has them"] + 0.05
        assert low <= figures["accuracy"] <= high
        assert figures["pictures"] == 25
        assert figures["misread"] == 25 - round(25 * figures["accuracy"])
        for kinds in figures["factors"].values():
            assert sum(kind["pictures"] for kind in kinds.values()) == 25
        with Image.open(tmp_path / f"sheet-{style}.png") as sheet:
            assert sheet.width > 1000
    assert (tmp_path / "sheet-misread.png").is_file()


def test_the_table_names_the_hardest_kinds_of_which_there_are_many() -> None:
    def kind(pictures: int, accuracy: float) -> dict[str, float]:
        return {"pictures": pictures, "accuracy": accuracy}

    figures = {
        "pictures": 2000,
        "accuracy": 0.95,
        "accuracy, 95 % interval": [0.94, 0.96],
        "accuracy as MNIST has them": 0.997,
        "read, mean ms": 12.34,
        "call, mean ms": 0.9,
        "factors": {
            "pen": {"pencil": kind(400, 0.9), "chalk": kind(49, 0.1), "marker": kind(1551, 0.97)},
            "light": {"even": kind(1000, 0.96), "shadow": kind(1000, 0.94)},
            "shows": {"1": kind(2000, 0.5)},
        },
    }
    conditions = {"model": "champion", "cores": 2, "cpu": "some processor"}
    last = robustness_table({"styles": {"photo": figures}, "conditions": conditions}).splitlines()[-1]
    assert last == (
        "| 2,000 photos | **95.00%** | 94.0% to 96.0% | 99.7% | pen: pencil 90.0%; light: shadow 94.0% | 12.3 | 0.9 |"
    )
