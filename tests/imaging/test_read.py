"""Picture files become 28 x 28 bytes of white ink on black, or a message that names the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imaging
from imaging import PictureError
from imaging.decode import MAX_PIXELS


def load(path: Path) -> np.ndarray:
    (digit,) = imaging.read(path.read_bytes())
    return digit.pixels


@pytest.fixture
def ink() -> np.ndarray:
    """A one, white on black, uint8 [28, 28]."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[6:22, 12:16] = 255
    return pixels


def enlarged(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.kron(pixels, np.ones((height, width), np.uint8))


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def test_white_ink_on_black_is_taken_as_it_is(tmp_path, ink):
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", ink)), ink)


def test_black_ink_on_white_paper_is_inverted(tmp_path, ink):
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", 255 - ink)), ink)


def test_every_grey_level_survives(tmp_path):
    levels = np.arange(784, dtype=np.uint16).reshape(28, 28) % 200
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", levels.astype(np.uint8))), levels)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (10, 10), (10, 20)])
def test_larger_pictures_are_averaged_down(tmp_path, ink, height, width):
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", enlarged(ink, height, width))), ink)


def test_smaller_pictures_are_enlarged(tmp_path):
    small = np.zeros((7, 7), np.uint8)
    small[2:5, 3] = 255
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", small)), enlarged(small, 4, 4))


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_without_loss_gives_the_same_pixels(tmp_path, ink, ending, mode):
    np.testing.assert_array_equal(load(saved(tmp_path / f"a.{ending}", ink, mode)), ink)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_formats_with_loss_give_nearly_the_same_pixels(tmp_path, ink, ending):
    found = load(saved(tmp_path / f"a.{ending}", ink))
    assert np.abs(found.astype(int) - ink).max() < 64


@pytest.mark.parametrize("mode", ["1", "P"])
def test_few_colours_are_colours_all_the_same(tmp_path, ink, mode):
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", ink, mode)), ink)


def test_sixteen_bits_are_scaled_to_eight(tmp_path, ink):
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", ink.astype(np.uint16) * 257)), ink)


def test_what_comes_out_can_be_sent_as_it_is(tmp_path, ink):
    found = load(saved(tmp_path / "a.png", ink))
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.uint8, (28, 28), True)


@pytest.mark.parametrize("colour", [0, 255], ids=["black", "white"])
def test_ink_on_transparent_paper_is_seen(tmp_path, ink, colour):
    pixels = np.full((28, 28, 4), colour, np.uint8)
    pixels[..., 3] = ink
    np.testing.assert_array_equal(load(saved(tmp_path / "a.png", pixels)), ink)


# What is no picture


@pytest.mark.parametrize("content", [b"", b"a letter, not a picture", b"\x89PNG\r\n\x1a\n"])
def test_another_file_under_a_pictures_name_is_refused_with_what_is_expected(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r".*picture"):
        load(path)


def test_a_truncated_picture_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(PictureError, match="cannot be read as a picture: image file is truncated"):
        load(path)


def png_that_claims(width: int, height: int) -> bytes:
    """The head of a PNG, and nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [7_100, 9_000, 30_000])
def test_a_picture_that_would_fill_the_memory_is_refused_unread(tmp_path, side):
    assert side * side > MAX_PIXELS
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(side, side))
    with pytest.raises(PictureError, match=r".*pixels"):
        load(path)


def test_a_picture_that_is_refused_causes_no_warning_besides(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(10_000, 10_000))
    with pytest.raises(PictureError, match="at most 50,000,000 are read; scale it down"):
        load(path)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_picture_without_ink_is_said_to_be_blank(shade):
    data = io.BytesIO()
    Image.fromarray(np.full((100, 60), shade, np.uint8)).save(data, "PNG")
    (digit,) = imaging.read(data.getvalue())
    assert digit.warnings == (imaging.Warning.BLANK,)
    assert imaging.read(data.getvalue(), many=True) == ()
