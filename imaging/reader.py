"""The way from a picture's bytes to its digits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imaging import segment
from imaging.candidates import Candidate, candidates, likeliest_first
from imaging.decode import Picture, decode
from imaging.digit import Box, Digit, Warning
from imaging.errors import PictureError
from imaging.evidence import WIDEST, of_shape, of_size
from imaging.hairs import without_hairs
from imaging.ink import Ink, inks
from imaging.likeness import USUAL, is_drawn, likeness
from imaging.lines import cuts, reading_order
from imaging.normalise import normalise
from imaging.ruling import without_ruling
from imaging.segment import Mask
from imaging.sheet import sheet

# Longer side that a picture is shrunk to, for one digit and for many: a digit on a page of 50 lines keeps 20 pixels.
_SIDE_ONE, _SIDE_MANY = 800, 1600

MAX_DIGITS = 200

# Less than this, of the strongest contrast possible, is faint.
_FAINT = 0.08

# With less evidence than this for it, whatever its size, a region is unlike a digit. One picture of a digit in 200 has
# less.
_LITTLE = 0.14

# What is found with this much evidence ends the search for another way to tell ink from paper.
_ENOUGH = 0.4

# Of the best one's evidence: from here on another region is another digit; with `many`, where they are looked for.
_RIVAL = 0.3
_RIVAL_MANY = 0.08

# What is left of the evidence for what is found when the sheet that seems to be there is not heeded.
_NO_SHEET = 0.6

# Of the evidence for a part on the sheet: with as much for the whole, the sheet's edge is none.
_UNCUT = 0.6

# Of the best one's evidence: with so much a region may be what the pen wrote.
_WRITTEN = 0.2

# Two parts of a region are digits of their own if both are so much more like one than the whole is, so much more for
# each stroke that the cut parts, and less where the whole is so many times as wide as tall. No part is more like one
# than this; and what is lower, in parts of the whole's height, is a piece of one. Two digits side by side are not
# narrower, in parts of their height: an 8 could be a 1 and a 3.
_GAIN = 0.02
_PER_STROKE = 0.02
_PER_WIDTH, _WIDE = 0.25, 1.5
_MOST_LIKE = 0.98
_PIECE = 0.65
_NARROWEST = 0.8

# A region without its hairs is taken if it is so much more like a digit, and no larger than so much of it: the fine
# strokes of a broad pen, such as the bar of a seven, do not stick out as far.
_TIDIER = 0.01
_STICKS_OUT = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """What is found in one way of telling ink from paper.

    Attributes:
        ink: That way.
        strokes: bool [height, width]: where there is ink.
        kept: The same without ruling and, where there is a sheet, what lies beside it.
        found: What may be a digit, the likeliest first.
        share: What is left of all evidence, 0 to 1.
    """

    ink: Ink
    strokes: Mask
    kept: Mask
    found: list[Candidate]
    share: float

    @property
    def best(self) -> float:
        """The evidence for the likeliest digit."""
        return self.share * max((each.score for each in self.found), default=0.0)

    @property
    def total(self) -> float:
        """The evidence for all digits together."""
        return self.share * sum(each.score for each in self.found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What each step made of a picture.

    Attributes:
        picture: As it was decoded.
        ink: The way of telling ink from paper that was taken.
        strokes: bool [height, width]: where there is ink.
        kept: The same without ruling and what lies beside the sheet.
        candidates: What may be a digit, the likeliest first.
        digits: What was read.
    """

    picture: Picture
    ink: Ink
    strokes: Mask
    kept: Mask
    candidates: tuple[Candidate, ...]
    digits: tuple[Digit, ...]


def read(data: bytes, *, many: bool = False) -> tuple[Digit, ...]:
    """The digits in a picture: one, or with `many` all of them, line by line from left to right.

    Without `many` there is always exactly one. If the picture looks blank, its warnings say so; if it seems to hold
    several, they say so too, and it is the one that most speaks for: large, of strong ink, in the middle.

    Args:
        data: A picture file: PNG, JPEG, WebP, BMP, TIFF, or GIF, of which the first frame is taken.
        many: Whether the picture may hold several digits, or none.

    Raises:
        PictureError: The bytes are no such picture, it is too large, or holds more than MAX_DIGITS digits.
    """
    return trace(data, many=many).digits


def trace(data: bytes, *, many: bool = False) -> Reading:
    """As `read`, with everything between. Arguments and errors are the same."""
    picture = decode(data, side=_SIDE_MANY if many else _SIDE_ONE)
    paper = sheet(picture.colours)
    seen: list[Way] = []
    for ink in inks(picture.colours, sheet=paper is not None):
        seen += _ways(ink, paper, many=many)
        ways = seen if many else _weighed(seen)
        # What a fat stroke encloses is like a digit as well.
        if not many and any(way.best > _ENOUGH and way.ink.expected for way in ways):
            break
    way = max(ways, key=lambda each: each.total if many else each.best)
    digits = _all(picture, way.ink, way.found) if many else (_one(picture, way.ink, way.found),)
    return Reading(
        picture=picture,
        ink=way.ink,
        strokes=way.strokes,
        kept=way.kept,
        candidates=tuple(way.found),
        digits=digits,
    )


def _ways(ink: Ink, paper: Mask | None, *, many: bool) -> list[Way]:
    """What is found in the whole picture, and on the sheet if there is one."""
    strokes = segment.strokes(ink)
    kept = segment.without_frames(without_ruling(strokes, ink.amount))
    found = candidates(ink, kept, many=many)
    everywhere = Way(ink=ink, strokes=strokes, kept=kept, found=found, share=1.0)
    if paper is None or ink.window is None:
        return [everywhere]
    on_it = replace(everywhere, kept=kept & paper, found=candidates(ink, kept & paper, many=many))
    if not many and _runs_over(everywhere, on_it, paper):
        return [everywhere]
    return [replace(everywhere, share=_NO_SHEET), on_it]


def _runs_over(everywhere: Way, on_it: Way, paper: Mask) -> bool:
    """Whether what seems to be a sheet's edge cuts the digit, and so is a shadow's."""
    if not everywhere.found or not on_it.found or everywhere.best < _UNCUT * on_it.best:
        return False
    whole = everywhere.found[0]
    return 0.1 < float(paper[whole.region.surroundings][whole.mask].mean()) < 0.9


def _weighed(ways: Sequence[Way]) -> list[Way]:
    """With less evidence for what has less ink along its strokes than the pen left: hairs, ruling, the back's writing.

    What the pen wrote may have been found in any of the ways that look for ink as dark, or as light, as this one.
    """
    least = _WRITTEN * max(way.best for way in ways)
    written = {
        light: [each for way in ways if way.ink.light == light for each in way.found if way.share * each.score >= least]
        for light in (False, True)
    }
    return [
        replace(way, found=likeliest_first(_as_written(each, written[way.ink.light]) for each in way.found))
        for way in ways
    ]


def _as_written(candidate: Candidate, written: Sequence[Candidate]) -> Candidate:
    most = max((each.thickness for each in written if candidate.is_apart(each)), default=0.0)
    return replace(candidate, score=candidate.score * min(1.0, candidate.thickness / max(most, 1e-9)))


def _one(picture: Picture, ink: Ink, found: Sequence[Candidate]) -> Digit:
    if not found:
        everything = Box(left=0, top=0, width=picture.width, height=picture.height)
        return Digit(pixels=np.zeros((28, 28), np.uint8), box=everything, warnings=(Warning.BLANK,))
    best = found[0]
    own = _split(ink, best)
    several = len(own) > 1 or any(
        each.score > _RIVAL * best.score
        and each.region.size > 0.5 * best.region.size
        and not set(each.region.parts) & set(best.region.parts)
        for each in found[1:]
    )
    return _digit(picture, best if len(own) > 1 else own[0], (Warning.SEVERAL_DIGITS,) if several else ())


def _all(picture: Picture, ink: Ink, found: Sequence[Candidate]) -> tuple[Digit, ...]:
    best = max((each.score for each in found), default=0.0)
    strongest = max((each.contrast for each in found if each.score > 0.3 * best), default=0.0)
    likely = [each for each in found if each.score > _RIVAL_MANY * best and each.contrast > 0.3 * strongest]
    # The heights of one hand's digits are about the same. Printed words may have more letters than there are digits,
    # but they are less like digits.
    usual = _weighted_median([each.region.height for each in likely], [each.score**2 for each in likely])
    likely = [each for each in likely if 0.4 * usual < each.region.height < 2.5 * usual]
    likely = [piece for each in likely for piece in _split(ink, each)]
    likely = [each for each in likely if not any(each.region.inside(other.region) for other in likely)]
    if len(likely) > MAX_DIGITS:
        raise PictureError(f"{len(likely)} digits; at most {MAX_DIGITS} are read in a picture; cut it into several")
    return tuple(_digit(picture, likely[each]) for each in reading_order([each.region for each in likely]))


def _weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The value below and above which there is half of the weight; 0 where there is none."""
    if not values:
        return 0.0
    order = np.argsort(values)
    sums = np.cumsum(np.asarray(weights)[order])
    return float(values[order[np.searchsorted(sums, sums[-1] / 2)]])


def _split(ink: Ink, candidate: Candidate) -> list[Candidate]:
    """The digits of a region: itself, or those that touch or nearly touch each other in it."""
    region = candidate.region
    rows, columns = region.surroundings
    left, top = region.left - columns.start, region.top - rows.start
    whole = replace(candidate, mask=candidate.mask[top : top + region.height, left : left + region.width])
    return _parted(ink, _shorn(ink, whole))


def _shorn(ink: Ink, whole: Candidate) -> Candidate:
    """A candidate, whose mask is as large as its region, without hairs if it is more like a digit then."""
    mask = without_hairs(whole.mask) if whole.likeness < _MOST_LIKE else None
    if mask is None:
        return whole
    shorn = _with_less(ink, whole, mask, 0)
    sticks_out = shorn.region.size < _STICKS_OUT * whole.region.size
    return shorn if sticks_out and shorn.likeness > whole.likeness + _TIDIER else whole


def _parted(ink: Ink, whole: Candidate) -> list[Candidate]:
    """As `_split`, of a candidate whose mask is as large as its region."""
    best: list[Candidate] = []
    height, width = whole.mask.shape
    enough = whole.likeness + _GAIN - _PER_WIDTH * max(0.0, width / height - _WIDE)
    tried = enough < _MOST_LIKE and width > _NARROWEST * height
    for place, strokes in cuts(whole.mask) if tried else ():
        ends = (0, place), (place, width)
        parts = [part for part in (_part(ink, whole, start, stop) for start, stop in ends) if part is not None]
        if len(parts) == 2 and (least := min(part.likeness for part in parts) - _PER_STROKE * strokes) > enough:
            best, enough = parts, least
    return [each for part in best for each in _parted(ink, part)] or [whole]


def _part(ink: Ink, whole: Candidate, start: int, stop: int) -> Candidate | None:
    mask = whole.mask[:, start:stop]
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows) or rows[-1] + 1 - rows[0] < _PIECE * len(mask):
        return None
    return _with_less(ink, whole, mask, start)


def _with_less(ink: Ink, whole: Candidate, mask: Mask, start: int) -> Candidate:
    """A candidate with less ink: of the columns of its region from `start` on what is in the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    left, top = whole.region.left + start + int(columns[0]), whole.region.top + int(rows[0])
    height, width = mask.shape
    region = replace(whole.region, left=left, right=left + width, top=top, bottom=top + height)
    pixels = normalise(ink.amount[top : top + height, left : left + width], mask)
    like = float(likeness([pixels])[0])
    # What else speaks for the whole speaks for this.
    shapes = of_shape(like, width, height), of_shape(whole.likeness, whole.region.width, whole.region.height)
    score = whole.score * shapes[0] / max(shapes[1], 1e-9)
    return replace(whole, region=region, mask=mask, pixels=pixels, likeness=like, score=score)


def _digit(picture: Picture, candidate: Candidate, warnings: tuple[Warning, ...] = ()) -> Digit:
    if candidate.contrast < _FAINT:
        warnings += (Warning.LOW_CONTRAST,)
    region, scale = candidate.region, picture.scale
    wide = region.width > WIDEST * region.height
    little = candidate.score < _LITTLE * of_size(region.size / max(picture.colours.shape))
    if wide or little or candidate.likeness < USUAL or not is_drawn(candidate.pixels):
        warnings += (Warning.UNLIKE_A_DIGIT,)
    left, top = int(region.left * scale), int(region.top * scale)
    right = min(picture.width, round(region.right * scale))
    bottom = min(picture.height, round(region.bottom * scale))
    return Digit(
        pixels=candidate.pixels,
        box=Box(left=left, top=top, width=right - left, height=bottom - top),
        warnings=warnings,
    )
