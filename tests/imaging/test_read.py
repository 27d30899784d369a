"""A digit is the same digit in every situation: what is read is like what a clean drawing of it gives."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

import imaging
from imaging import Warning
from imaging.likeness import features
from tests.imaging.drawing import CORNERS, encoded, page, shaded, stroke


def one(picture: np.ndarray, kind: str = "PNG", **options) -> imaging.Digit:
    (digit,) = imaging.read(encoded(picture, kind, **options))
    return digit


def drawn(
    digit: int, *, tone: int = 235, ink: int = 30, size: int = 220, pen: int = 14, grain: float = 0, left=210, top=120
):
    return stroke(page(tone=tone, grain=grain), digit, left=left, top=top, size=size, pen=pen, ink=ink)


@pytest.fixture(params=[2, 4, 7])
def number(request) -> int:
    return request.param


def assert_is(found: imaging.Digit, number: int) -> None:
    """The shape is that of the clean drawing, and of no other digit."""
    shapes = features([found.pixels, *(one(drawn(each)).pixels for each in CORNERS)])
    alike = dict(zip(CORNERS, shapes[1:] @ shapes[0], strict=True))
    assert max(alike, key=alike.get) == number, alike
    assert alike[number] > 0.85, alike
    assert Warning.BLANK not in found.warnings


def test_light_on_dark_is_what_dark_on_light_is(number):
    dark, light = one(drawn(number)), one(255 - drawn(number))
    np.testing.assert_allclose(dark.pixels.astype(int), light.pixels, atol=40)


@pytest.mark.parametrize("factor", [0.15, 0.5, 3.0])
def test_a_picture_of_another_size_is_the_same(number, factor):
    scaled = cv2.resize(drawn(number), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    assert_is(one(scaled), number)


@pytest.mark.parametrize("grain", [0, 4])
def test_shadows_and_falling_light_are_no_ink(number, grain):
    assert_is(one(shaded(drawn(number, grain=grain)), "JPEG"), number)


def test_a_vignette_does_not_turn_paper_into_ink(number):
    away = np.hypot(*np.meshgrid(np.linspace(-1, 1, 640), np.linspace(-1, 1, 480)))
    assert_is(one((drawn(number, grain=2) * (1 - 0.4 * away**2)).clip(0, 255).astype(np.uint8)), number)


@pytest.mark.parametrize("pen", [1, 3, 30])
def test_thin_and_thick_pens_write_the_same_digit(number, pen):
    assert_is(one(drawn(number, pen=pen)), number)


def test_faint_pencil_is_read(number):
    assert_is(one(drawn(number, tone=220, ink=185, pen=6, grain=3)), number)


@pytest.mark.parametrize(("left", "top"), [(4, 4), (400, 4), (4, 270), (400, 250)])
def test_a_digit_in_a_corner_is_found(number, left, top):
    assert_is(one(drawn(number, left=left, top=top, size=200)), number)


def test_a_digit_cut_out_tightly_is_read(number):
    whole = drawn(number, pen=24)
    rows, columns = np.nonzero(whole < 130)
    assert_is(one(whole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]), number)


@pytest.mark.parametrize("squared", [False, True], ids=["ruled", "squared"])
def test_ruled_paper_is_read(number, squared):
    picture = page(grain=2)
    for y in range(20, 480, 40):
        cv2.line(picture, (0, y), (639, y + 5), 170, 2)
    if squared:
        for x in range(20, 640, 40):
            cv2.line(picture, (x, 0), (x - 5, 479), 170, 2)
    assert_is(one(shaded(stroke(picture, number, left=210, top=120, size=220, pen=12, ink=40))), number)


def test_pieces_by_one_pen_are_one_digit():
    body, bar = (np.array([(210 + 220 * x, 160 + 220 * y) for x, y in line], np.int32) for line in CORNERS[5])
    picture = page()
    cv2.polylines(picture, [body, bar - (0, 60)], False, 30, 12, cv2.LINE_AA)
    rows, columns = np.nonzero(picture < 130)
    box = one(picture).box
    found = [box.left, box.top, box.left + box.width, box.top + box.height]
    np.testing.assert_allclose(found, [columns.min(), rows.min(), columns.max(), rows.max()], atol=5)


def test_the_edge_of_a_shadow_does_not_cut_a_digit(number):
    light = np.linspace(1, 0.8, 640)[None] * np.full((480, 1), 0.5)
    light[200:440, 40:600] *= 2
    assert_is(one((drawn(number, grain=2) * light).astype(np.uint8)), number)


def test_a_sheet_on_a_table_is_read(number):
    table = page(tone=70, grain=5)
    table[40:440, 90:560] = 225
    assert_is(one(stroke(table, number, left=230, top=130, size=180, pen=10, ink=40), "JPEG"), number)


@pytest.mark.parametrize(
    ("paper", "ink"),
    [((250, 230, 110), (40, 60, 160)), ((60, 170, 60), (240, 60, 60)), ((30, 60, 45), (230, 230, 220))],
)
def test_coloured_ink_on_coloured_paper_is_read(number, paper, ink):
    picture = np.full((480, 640, 3), paper, np.uint8)
    assert_is(one(stroke(picture, number, left=210, top=120, size=220, pen=14, ink=ink)), number)


def test_specks_are_not_part_of_the_digit(number):
    picture = drawn(number)
    for x, y in np.random.default_rng(0).integers(5, 470, (40, 2)):
        cv2.circle(picture, (int(x), int(y)), 2, 60, -1)
    assert_is(one(picture), number)


@pytest.mark.parametrize(("pen", "ink"), [(2, 60), (9, 180)], ids=["a hair", "the back's writing"])
def test_what_is_thinner_or_fainter_than_the_pen_is_not_taken_for_its_digit(number, pen, ink):
    picture = drawn(number, left=60, top=320, size=60, pen=7)
    assert_is(one(stroke(picture, 1, left=250, top=120, size=200, pen=pen, ink=ink)), number)


def test_a_piece_of_a_printed_field_is_not_taken_for_the_digit(number):
    picture = drawn(number, left=420, top=330, size=60, pen=7)
    side = np.array([(300, 270), (320, 270), (320, 420), (300, 420)], np.int32)
    cv2.polylines(picture, [side], False, 60, 2)
    assert_is(one(picture), number)


@pytest.mark.parametrize(("step", "pen"), [(16, 18), (27, 14)])
def test_a_piece_of_ruling_is_not_taken_for_a_fat_digit_that_another_way_to_tell_ink_finds(step, pen):
    picture = page(161, 110, tone=225, grain=1)
    for at in range(5, 161, step):
        picture[:, at : at + 1] = picture[at] = 195
    cv2.polylines(picture, [np.array([(58, 38), (48, 60), (46, 71)])], False, 70, pen // 2 + 2, cv2.LINE_AA)
    found = one(cv2.circle(picture, (50, 74), pen, 70, -1, cv2.LINE_AA))
    assert found.box.height > 40


@pytest.mark.parametrize("height", [230, 330])
def test_a_thread_across_a_digit_is_not_part_of_it(number, height):
    across = np.arange(120, 520)
    thread = np.stack([across, height + 12 * np.sin(across / 40)], axis=1).astype(np.int32)
    digit = one(cv2.polylines(drawn(number, pen=20), [thread], False, 30, 2, cv2.LINE_AA))
    assert_is(digit, number)
    assert digit.box.width < 240


@pytest.mark.parametrize("pen", [3, 4, 6])
def test_fine_strokes_beside_broad_ones_are_part_of_the_digit(pen):
    picture = page()
    for points, width in ([(250, 120), (400, 120)], pen), ([(400, 120), (300, 340)], 16):
        cv2.polylines(picture, [np.array(points, np.int32)], False, 30, width, cv2.LINE_AA)
    assert one(picture).box.width == pytest.approx(150, abs=16)


def test_a_blot_does_not_make_a_thin_digit_a_hair(number):
    picture = stroke(page(), number, left=100, top=60, size=220, pen=6, ink=30)
    assert_is(one(cv2.circle(picture, (560, 420), 8, 30, -1)), number)


def test_pixels_of_mnists_own_layout_come_back(number):
    pixels = one(drawn(number)).pixels
    np.testing.assert_array_equal(one(pixels).pixels, pixels)
    np.testing.assert_array_equal(one(255 - pixels).pixels, pixels)


def test_what_comes_out_can_be_sent_as_it_is(number):
    pixels = one(drawn(number)).pixels
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.uint8, (28, 28), True)


def test_the_box_is_that_of_the_file_however_large(number):
    large = cv2.resize(drawn(number), None, fx=4, fy=4)
    rows, columns = np.nonzero(large < 130)
    box = one(large).box
    found = [box.left, box.top, box.left + box.width, box.top + box.height]
    np.testing.assert_allclose(found, [columns.min(), rows.min(), columns.max(), rows.max()], atol=20)


# Warnings


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_picture_without_ink_is_said_to_be_blank(shade):
    data = encoded(page(100, 60, tone=shade))
    (digit,) = imaging.read(data)
    assert digit.warnings == (Warning.BLANK,)
    assert imaging.read(data, many=True) == ()


def test_a_clean_digit_has_no_warnings(number):
    assert one(drawn(number)).warnings == ()


def test_several_digits_are_said_to_be_several():
    picture = stroke(drawn(4, left=100), 2, left=380, top=120, size=220, pen=14, ink=30)
    assert Warning.SEVERAL_DIGITS in one(picture).warnings


def test_a_faint_digit_is_said_to_be_faint():
    assert Warning.LOW_CONTRAST in one(drawn(2, tone=235, ink=222)).warnings


def test_a_long_scrawl_is_said_to_be_unlike_a_digit():
    picture = page()
    points = [(80 + 40 * index, (180, 300)[index % 2]) for index in range(13)]
    cv2.polylines(picture, [np.array(points, np.int32)], False, 30, 7, cv2.LINE_AA)
    assert Warning.UNLIKE_A_DIGIT in one(picture).warnings


@pytest.mark.parametrize("radius", [30, 60, 90])
def test_a_blob_is_said_to_be_unlike_a_digit(radius):
    blob = cv2.circle(page(), (320, 240), radius, 30, -1, cv2.LINE_AA)
    assert Warning.UNLIKE_A_DIGIT in one(blob).warnings


def test_a_net_is_said_to_be_unlike_a_digit():
    picture = page()
    for left in (240, 280, 320):
        for top in (160, 200, 240):
            cv2.circle(picture, (left, top), 30, 30, 8, cv2.LINE_AA)
    assert Warning.UNLIKE_A_DIGIT in one(picture).warnings


def test_light_and_shade_without_strokes_are_said_to_be_none():
    """Their shapes alone may be as much like digits as digits are."""
    warned = []
    for seed in range(8):
        clouds = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(300, 400)), (0, 0), 60)
        warned.append(one(cv2.normalize(clouds, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)).warnings)
    assert all(Warning.UNLIKE_A_DIGIT in each for each in warned), warned


# Many


def several(lines: Sequence[Sequence[int]], *, size: int = 90, gap: int = 110, pen: int = 8) -> np.ndarray:
    picture = page(140 * len(lines) + 60, 100 + gap * max(map(len, lines)), grain=2)
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            stroke(picture, digit, left=50 + gap * column, top=50 + 140 * row, size=size, pen=pen, ink=35)
    return picture


@pytest.mark.parametrize("change", [np.array, shaded, np.invert], ids=["dark", "shaded", "light"])
def test_many_digits_are_read_line_by_line(change):
    lines = [[4, 2, 7, 5], [1, 5], [7, 7, 2]]
    digits = imaging.read(encoded(change(several(lines))), many=True)
    expected = [digit for line in lines for digit in line]
    assert len(digits) == len(expected)
    for found, digit in zip(digits, expected, strict=True):
        assert_is(found, digit)


def test_printed_words_do_not_outvote_the_digits_of_a_page():
    picture = several([[4, 2, 7, 5]])
    picture = np.vstack([picture, np.full((120, picture.shape[1]), 235, np.uint8)])
    for row in range(3):
        cv2.putText(picture, "Name of the reader, amount", (40, 210 + 35 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 60, 2)
    digits = imaging.read(encoded(picture), many=True)
    tall = [found for found in digits if found.box.height > 60]
    for found, digit in zip(tall, (4, 2, 7, 5), strict=True):
        assert_is(found, digit)


@pytest.mark.parametrize("gap", [66, 72, 78])
@pytest.mark.parametrize("pair", [(2, 2), (2, 5), (5, 4), (7, 7)])
def test_neighbours_that_touch_or_nearly_do_are_parted(pair, gap):
    digits = imaging.read(encoded(several([pair], gap=gap)), many=True)
    assert len(digits) == 2
    for found, digit in zip(digits, pair, strict=True):
        assert_is(found, digit)


def test_three_that_touch_are_parted():
    digits = imaging.read(encoded(several([[2, 2, 5]], gap=72)), many=True)
    assert [each.warnings for each in digits] == [()] * 3


@pytest.mark.parametrize("pair", [(2, 2), (2, 5), (5, 4)])
def test_two_that_touch_are_said_to_be_several(pair):
    assert Warning.SEVERAL_DIGITS in one(several([pair], gap=72)).warnings


def test_more_digits_than_are_read_in_a_picture_are_refused():
    picture = np.full((1500, 1500), 255, np.uint8)
    for y in range(30, 1450, 50):
        for x in range(30, 1450, 50):
            stroke(picture, 2, left=x, top=y, size=30, pen=3, ink=0)
    with pytest.raises(imaging.PictureError, match=r"at most 200 are read"):
        imaging.read(encoded(picture), many=True)
