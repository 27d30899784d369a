"""What was printed goes, and what was written stays, also where both touch."""

import cv2
import numpy as np
import pytest

from imaging.ruling import without_ruling
from tests.imaging.drawing import stroke


def mask(height: int = 400, width: int = 600) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def cleaned(drawn: np.ndarray) -> np.ndarray:
    return without_ruling(drawn > 0, drawn.astype(np.float32))


def squares(tilt: float, *, step: int) -> np.ndarray:
    paper = np.zeros((1200, 1200), np.uint8)
    paper[::step] = paper[1::step] = paper[:, ::step] = paper[:, 1::step] = 255
    turn = cv2.getRotationMatrix2D((600, 600), tilt, 1)
    return cv2.warpAffine(paper, turn, (1200, 1200))[400:800, 300:900] > 100


def assert_only(left: np.ndarray, digit: np.ndarray, printed: np.ndarray) -> None:
    assert (left & digit).sum() > 0.93 * digit.sum()
    assert (left & ~digit).sum() < 0.2 * (printed & ~digit).sum()


@pytest.mark.parametrize("tilt", [-6, 0, 9], ids="{} pixels".format)
@pytest.mark.parametrize("squared", [False, True], ids=["ruled", "squared"])
def test_ruling_goes_and_the_digit_stays(tilt, squared):
    digit = stroke(mask(), 5, left=200, top=80, size=220, pen=12, ink=1) > 0
    page = mask()
    for y in range(30, 400, 50):
        cv2.line(page, (0, y), (599, y + tilt), 1, 2)
    if squared:
        for x in range(25, 600, 50):
            cv2.line(page, (x, 0), (x - tilt, 399), 1, 2)
    left = cleaned((page > 0) | digit)
    assert (left & digit).sum() > 0.97 * digit.sum()
    assert (left & ~digit).sum() < 0.3 * ((page > 0) & ~digit).sum()


@pytest.mark.parametrize("digit", [1, 4, 7])
def test_a_digit_as_large_as_the_picture_is_no_ruling(digit):
    drawn = stroke(mask(600, 600), digit, left=60, top=40, size=520, pen=3, ink=1) > 0
    np.testing.assert_array_equal(cleaned(drawn), drawn)


@pytest.mark.parametrize("seed", range(8))
def test_strokes_that_lean_about_alike_all_over_a_page_are_no_ruling(seed):
    page = mask(400, 800)
    draw = np.random.default_rng(seed)
    for row, column in np.ndindex(10, 20):
        x, y, lean = draw.integers((0, 0, 4), (16, 16, 22))
        left, top = 40 * column + x, 40 * row + y
        cv2.line(page, (left, top + 24), (left + lean, top), 1, 2)
    np.testing.assert_array_equal(cleaned(page), page > 0)


@pytest.mark.parametrize("height", [40, 50, 80])
def test_a_comb_goes(height):
    digit = stroke(mask(), 2, left=200, top=120, size=50, pen=6, ink=1) > 0
    printed = cv2.line(mask(), (40, 200), (580, 200), 1, 2)
    for x in range(40, 600, 60):
        cv2.line(printed, (x, 200 - height), (x, 200), 1, 2)
    assert_only(cleaned((printed > 0) | digit), digit, printed > 0)


@pytest.mark.parametrize("tilt", [0, 12, 25], ids="{} degrees".format)
def test_squared_paper_goes_however_it_lies(tilt):
    digit = stroke(mask(), 2, left=200, top=80, size=220, pen=14, ink=1) > 0
    printed = squares(tilt, step=50)
    assert_only(cleaned(printed | digit), digit, printed)


@pytest.mark.parametrize("right", [330, 700], ids=["whole", "cut by the rim"])
def test_a_box_that_the_digit_touches_goes(right):
    digit = stroke(mask(), 2, left=200, top=100, size=150, pen=8, ink=1) > 0
    printed = cv2.rectangle(mask(), (205, 70), (right, 240), 1, 3) > 0
    assert_only(cleaned(printed | digit), digit, printed)


def test_a_stroke_along_a_boxs_side_stays_whole_and_the_side_goes():
    line = [(230, 110), (230, 260), (330, 260), (330, 110)]
    digit = cv2.polylines(mask(), [np.array(line, np.int32)], False, 1, 7) > 0
    printed = cv2.rectangle(mask(), (150, 60), (400, 260), 1, 5) > 0
    assert_only(cleaned(printed | digit), digit, printed)


def test_a_box_with_a_corner_hidden_under_a_stroke_goes():
    digit = stroke(mask(), 2, left=180, top=104, size=140, pen=16, ink=1) > 0
    printed = cv2.rectangle(mask(), (200, 120), (360, 280), 1, 3) > 0
    assert digit[120, 200:209].all(), "the corner is hidden"
    assert_only(cleaned(printed | digit), digit, printed)


@pytest.mark.parametrize("tilt", [0, 2], ids="{} degrees".format)
def test_a_small_digit_on_squared_paper_is_left_and_the_squares_go(tilt):
    digit = stroke(mask(), 2, left=280, top=170, size=40, pen=5, ink=1) > 0
    printed = squares(tilt, step=30)
    assert_only(cleaned(printed | digit), digit, printed)


def test_squares_that_are_printed_unevenly_go_up_to_where_they_cross():
    digit = stroke(mask(), 2, left=210, top=90, size=200, pen=14, ink=1) > 0
    printed = squares(0, step=50)
    for y in range(0, 400, 50):
        for x in range(0, 600, 100):
            printed[y : y + 3, x : x + 50] = True
    assert_only(cleaned(printed | digit), digit, printed)


@pytest.mark.parametrize("pen", [3, 6, 10])
def test_the_strokes_of_a_seven_do_not_hold_each_other_as_printed_lines(pen):
    line = [(150, 60), (420, 60), (380, 360)]
    digit = cv2.polylines(mask(), [np.array(line, np.int32)], False, 1, pen) > 0
    np.testing.assert_array_equal(cleaned(digit), digit)


@pytest.mark.parametrize("size", [300, 380])
def test_a_seven_whose_bar_lies_along_the_rim_stays(size):
    digit = stroke(mask(), 7, left=100, top=6, size=size, pen=8, ink=1) > 0
    np.testing.assert_array_equal(cleaned(digit), digit)


def test_a_bar_in_line_with_ruling_stays():
    digit = stroke(mask(), 7, left=200, top=100, size=200, pen=12, ink=1) > 0
    printed = cv2.line(mask(), (500, 100), (599, 100), 1, 2) > 0
    left = cleaned(printed | digit)
    assert (left & digit).sum() > 0.97 * digit.sum()


def test_a_box_goes_of_which_one_side_is_hidden_under_a_stroke():
    digit = stroke(mask(), 7, left=210, top=101, size=150, pen=7, ink=1) > 0
    printed = cv2.rectangle(mask(), (200, 100), (340, 270), 1, 3) > 0
    assert digit[98:105, 215:325].any(axis=0).all(), "the digit's bar covers the upper side"
    assert_only(cleaned(printed | digit), digit, printed)


@pytest.mark.parametrize("gap", [0, 12], ids=["standing on it", "above it"])
def test_a_line_to_write_on_goes(gap):
    digit = stroke(mask(), 5, left=240, top=150 - gap, size=100, pen=6, ink=1) > 0
    printed = cv2.line(mask(), (200, 252), (380, 254), 1, 3) > 0
    assert_only(cleaned(printed | digit), digit, printed)


@pytest.mark.parametrize(
    "lines",
    [
        [[(230, 90), (290, 60), (290, 250)], [(230, 250), (350, 250)]],
        [[(210, 90), (300, 60), (340, 120), (200, 250), (330, 250)]],
    ],
    ids=["of a one", "of a two"],
)
def test_the_foot_of_a_digit_is_no_line_to_write_on(lines):
    digit = cv2.polylines(mask(), [np.array(line, np.int32) for line in lines], False, 1, 4) > 0
    np.testing.assert_array_equal(cleaned(digit), digit)


@pytest.mark.parametrize("pen", [3, 8])
@pytest.mark.parametrize(
    "lines",
    [
        [[(1, 0), (0, 0), (0, 2), (1, 2), (1, 1), (0, 1)]],
        [[(0, 0), (1, 0), (1, 2), (0, 2), (0, 0)], [(0, 1), (1, 1)]],
        [[(0, 2), (1, 2), (1, 0), (0, 0), (0, 1), (1, 1)]],
    ],
    ids=["a six", "an eight", "a nine"],
)
def test_a_digit_of_straight_lines_is_no_box(lines, pen):
    shapes = [200 + 110 * np.array(line, np.int32) - (0, 130) for line in lines]
    digit = cv2.polylines(mask(), shapes, False, 1, pen) > 0
    np.testing.assert_array_equal(cleaned(digit), digit)
