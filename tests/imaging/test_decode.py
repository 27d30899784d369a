"""Files become upright colours, shrunk; what is no picture, or too much of one, is refused with what was expected."""

import struct
import zlib
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from imaging import PictureError
from imaging.decode import MAX_BYTES, MAX_PIXELS, decode
from tests.imaging.drawing import encoded, page, stroke


@pytest.fixture
def drawn() -> np.ndarray:
    """A seven in the top left corner: no two ways to hold it look the same."""
    return stroke(page(120, 160), 7, left=15, top=10, size=60, pen=6, ink=20)


def grey(data: bytes, side: int = 800) -> np.ndarray:
    return decode(data, side=side).colours.mean(axis=2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_gives_the_same_picture(drawn, kind, mode):
    data = encoded(Image.fromarray(drawn).convert(mode), kind)
    assert np.abs(grey(data) - drawn).mean() < 3


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("PNG", "LA"), ("PNG", "RGBA")])
def test_every_mode_gives_the_same_picture(drawn, kind, mode):
    picture = Image.fromarray(drawn).convert("RGB").convert(mode)
    assert np.abs(grey(encoded(picture, kind)) - drawn).mean() < 4


@pytest.mark.parametrize("highest", [255, 4095, 65535])
def test_sixteen_bits_are_scaled_by_the_range_that_is_used(drawn, highest):
    deep = (drawn.astype(np.uint32) * highest // 255).astype(np.uint16)
    found = grey(encoded(deep))
    assert (found.min(), found.max()) == (0, 255)
    assert np.corrcoef(found.ravel(), drawn.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_however_the_camera_was_held(drawn, kind, orientation):
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    held = Image.fromarray(drawn)
    held = held.transpose(inverse[orientation]) if orientation in inverse else held
    exif = Image.Exif()
    exif[274] = orientation
    picture = decode(encoded(held, kind, exif=exif), side=800)
    assert (picture.width, picture.height) == (160, 120)
    np.testing.assert_array_equal(picture.colours[:, :, 0], drawn)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (2000, 1000), (5, 4000)])
def test_a_large_picture_is_shrunk_and_remembers_its_size(kind, height, width):
    picture = decode(encoded(page(height, width), kind), side=800)
    assert max(picture.colours.shape) == 800
    assert (picture.height, picture.width) == (height, width)
    assert picture.scale == pytest.approx(max(height, width) / 800)


@pytest.mark.parametrize("colour", [0, 255], ids=["black", "white"])
def test_strokes_on_transparent_paper_stand_out(drawn, colour):
    pixels = np.full((*drawn.shape, 4), colour, np.uint8)
    pixels[..., 3] = 255 - drawn
    found = grey(encoded(pixels))
    assert abs(np.corrcoef(found.ravel(), drawn.ravel())[0, 1]) > 0.99


def test_a_sheet_with_a_transparent_rim_keeps_its_ink(drawn):
    pixels = np.dstack([drawn] * 3 + [np.full_like(drawn, 255)])
    pixels[:6, :, 3] = 0
    found = grey(encoded(pixels))
    assert found[:6].min() > 200
    assert np.abs(found[6:] - drawn[6:]).max() < 1


def test_of_an_animation_the_first_frame_is_taken(drawn):
    frames = [Image.fromarray(frame) for frame in (drawn, 255 - drawn, drawn // 2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(grey(data) - drawn).mean() < 3


# What is no picture


@pytest.mark.parametrize("content", [b"", b"a letter, not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_another_file_under_a_pictures_name_is_refused_with_what_is_expected(content):
    with pytest.raises(PictureError, match=r".*picture"):
        decode(content, side=800)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="HEIC is read here")
def test_a_phones_own_format_is_named_with_what_reads_it():
    with pytest.raises(PictureError, match=r"a HEIC picture; install pillow-heif where it is read"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", side=800)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_truncated_picture_is_refused(kind):
    data = encoded(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8), kind)
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        decode(data[: len(data) // 2], side=800)


def png_that_claims(width: int, height: int) -> bytes:
    """The head of a PNG, and nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [8_100, 9_000, 50_000])
def test_a_picture_that_would_fill_the_memory_is_refused_unread(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(PictureError, match=rf"{side} x {side} pixels; at most 65,000,000|so many pixels"):
        decode(png_that_claims(side, side), side=800)


def test_a_file_that_is_too_long_is_refused_unread():
    with pytest.raises(PictureError, match=r"67,108,865 bytes; at most 67,108,864 are read"):
        decode(bytes(MAX_BYTES + 1), side=800)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(drawn, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(drawn, ["PNG", "JPEG", "TIFF", "GIF", "WEBP"][seed % 5]))
    for position in rng.integers(0, len(data), 8):
        data[position] = rng.integers(256)
    with suppress(PictureError):
        assert decode(bytes(data), side=800).colours.dtype == np.uint8
