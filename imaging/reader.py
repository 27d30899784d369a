"""The way from a picture's bytes to its digits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from imaging import segment
from imaging.decode import Picture, decode
from imaging.digit import Box, Digit, Warning
from imaging.errors import PictureError
from imaging.evidence import WIDEST, evidence, with_holders, with_pens
from imaging.ink import Ink, inks
from imaging.likeness import USUAL, is_drawn, likeness
from imaging.lines import cuts, reading_order
from imaging.normalise import normalise, stroke_width
from imaging.ruling import without_ruling
from imaging.segment import Mask, Region
from imaging.sheet import sheet

# Longer side that a picture is shrunk to, for one digit and for many: a digit on a page of 50 lines keeps 20 pixels.
_SIDE_ONE, _SIDE_MANY = 800, 1600

MAX_DIGITS = 200

# Regions that are looked at closely, the largest ones.
_MAX_CANDIDATES = 12
_MAX_CANDIDATES_MANY = 300
_MAX_PARTS_ONE, _MAX_PARTS_MANY = 100, 800

# Less than this, of the strongest contrast possible, is faint.
_FAINT = 0.08

# What is found with this much evidence ends the search for another way to tell ink from paper.
_ENOUGH = 0.4

# Of the best one's evidence: from here on another region is another digit; with `many`, where they are looked for.
_RIVAL = 0.3
_RIVAL_MANY = 0.08

# Of the picture's longer side: what is smaller is a speck.
_LEAST_ONE, _LEAST_MANY = 0.02, 0.008

# Of a digit's size: how far from it a part of it may be.
_REACH = 0.25

# What is left of the evidence for what is found when the sheet that seems to be there is not heeded.
_NO_SHEET = 0.6

# Of the evidence for a part on the sheet: with as much for the whole, the sheet's edge is none.
_UNCUT = 0.6

# What is left of the evidence for a region without the fragments around it.
_ALONE = 0.6

# Of each other: contrasts and widths of strokes by one pen. Of a digit's size: how far apart its pieces may be.
_SAME_PEN = 0.5
_STREWN = 0.7

# And for one together with neighbours that may be digits of their own.
_WHOLE = 0.9

# A region less like a digit may be several that touch, the more so the wider it is; it is, if each is likelier.
_TOUCHING = 0.75
_PER_WIDTH = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A region that may be a digit.

    Attributes:
        region: Where it is, in pixels of the shrunk picture.
        mask: bool [height, width] of the region and a margin: its own ink.
        pixels: uint8 [28, 28].
        contrast: Its ink's, 0 to 1.
        likeness: See `imaging.likeness`.
        score: See `imaging.evidence`.
    """

    region: Region
    mask: Mask
    pixels: npt.NDArray[np.uint8]
    contrast: float
    likeness: float
    score: float


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
    ways = []
    for ink in inks(picture.colours, sheet=paper is not None):
        strokes = segment.strokes(ink)
        kept = segment.without_frames(without_ruling(strokes, ink.amount))
        heeded = paper is not None and ink.window is not None
        everywhere = _way(ink, strokes, kept, many=many, share=_NO_SHEET if heeded else 1.0)
        ways.append(everywhere)
        if paper is not None and heeded:
            on_it = _way(ink, strokes, kept & paper, many=many, share=1.0)
            if not many and _runs_over(everywhere[-1], on_it[-1], paper):
                ways[-1] = (everywhere[-1][0].score, *everywhere[1:])
            else:
                ways.append(on_it)
        # What a fat stroke encloses is like a digit as well.
        if not many and any(found > _ENOUGH and way.expected for found, way, *_ in ways):
            break
    _, ink, strokes, kept, found = max(ways, key=lambda way: way[0])
    digits = _all(picture, ink, found) if many else (_one(picture, found),)
    return Reading(picture=picture, ink=ink, strokes=strokes, kept=kept, candidates=tuple(found), digits=digits)


def _runs_over(everywhere: Sequence[Candidate], on_it: Sequence[Candidate], paper: Mask) -> bool:
    """Whether what seems to be a sheet's edge cuts the digit, and so is a shadow's."""
    if not everywhere or not on_it or everywhere[0].score < _UNCUT * on_it[0].score:
        return False
    return 0.1 < float(paper[_around(everywhere[0].region)][everywhere[0].mask].mean()) < 0.9


def _way(
    ink: Ink, strokes: Mask, kept: Mask, *, many: bool, share: float
) -> tuple[float, Ink, Mask, Mask, list[Candidate]]:
    """What one way of looking at a picture finds, after how much speaks for it."""
    found = _candidates(ink, kept, many=many)
    scores = [each.score for each in found]
    return share * (sum(scores) if many else max(scores, default=0.0)), ink, strokes, kept, found


def _candidates(ink: Ink, mask: Mask, *, many: bool) -> list[Candidate]:
    """What may be a digit, the likeliest first."""
    least, most = (_LEAST_MANY, _MAX_PARTS_MANY) if many else (_LEAST_ONE, _MAX_PARTS_ONE)
    labels, parts = segment.parts(mask, least=least, most=most)
    groups = sorted(segment.group(parts, labels, reach=_REACH), key=lambda each: -each.size)
    groups = groups[: _MAX_CANDIDATES_MANY if many else _MAX_CANDIDATES]
    # What has been put together may be strangers, such as a digit and the sheet's edge beside it.
    alone = [] if many else [
        part for group in groups if len(group.parts) > 1
        for part in parts if part.parts[0] in group.parts and part.size > 0.15 * group.size
    ][:_MAX_CANDIDATES]  # fmt: skip
    whole = [] if many else _whole(groups, parts, labels)
    strewn = [] if many else _strewn(ink, groups, labels)
    regions = [*groups, *strewn, *whole, *alone]
    cuts_out = [_cut(ink, labels, each) for each in regions]
    likes = likeness([pixels for _, pixels, _ in cuts_out])
    shares = [1.0] * len(groups + strewn) + [_WHOLE] * len(whole) + [_ALONE] * len(alone)
    scores = [
        share * evidence(ink, labels, region, own, contrast, float(like))
        for share, region, (own, _, contrast), like in zip(shares, regions, cuts_out, likes, strict=True)
    ]
    scores = with_holders(regions, scores, [contrast for _, _, contrast in cuts_out])
    if not many:
        scores = with_pens(regions, scores, [contrast * stroke_width(own) for own, _, contrast in cuts_out])
    found = [
        Candidate(region=region, mask=own, pixels=pixels, contrast=contrast, likeness=float(like), score=score)
        for region, (own, pixels, contrast), like, score in zip(regions, cuts_out, likes, scores, strict=True)
    ]
    return sorted(found, key=lambda each: -each.score)


def _whole(groups: Sequence[Region], parts: Sequence[Region], labels: npt.NDArray[np.int32]) -> list[Region]:
    """The largest group with all around it, if that is more than itself; in a small picture that is everything."""
    if len(groups) < 2:
        return []
    small = max(labels.shape) <= segment.SMALL
    whole = segment.join(groups) if small else segment.around(groups[0], parts, labels, reach=_REACH)
    return [whole] if len(whole.parts) > len(groups[0].parts) else []


def _strewn(ink: Ink, groups: Sequence[Region], labels: npt.NDArray[np.int32]) -> list[Region]:
    """The largest strong group with others of the same pen around it: strokes of one digit that do not touch."""
    height, width = labels.shape
    free = [each for each in groups if each.left and each.top and each.right < width and each.bottom < height]
    traits = [_pen(ink, labels, each) for each in free]
    strong = _SAME_PEN * max((contrast for contrast, _ in traits), default=0.0)
    able = [(each, trait) for each, trait in zip(free, traits, strict=True) if trait[0] > strong]
    if not able:
        return []
    (first, pen), *others = able
    own = first
    for each, trait in others:
        same = all(min(one, other) > _SAME_PEN * max(one, other) for one, other in zip(trait, pen, strict=True))
        if same and each.size > 0.15 * first.size and own.gap(each) < _STREWN * first.size:
            own = segment.join([own, each])
    return [] if own is first else [own]


def _pen(ink: Ink, labels: npt.NDArray[np.int32], region: Region) -> tuple[float, float]:
    """The contrast and the width of a region's strokes."""
    rows, columns = slice(region.top, region.bottom), slice(region.left, region.right)
    own = np.isin(labels[rows, columns], region.parts)
    return float(np.median(ink.amount[rows, columns][own])), stroke_width(own)


def _cut(ink: Ink, labels: npt.NDArray[np.int32], region: Region) -> tuple[Mask, npt.NDArray[np.uint8], float]:
    """The region's own ink, what it is normalised, and its contrast."""
    cut = _around(region)
    own = np.isin(labels[cut], region.parts)
    amount = ink.amount[cut]
    return own, normalise(amount, own), float(np.median(amount[own]))


def _around(region: Region) -> tuple[slice, slice]:
    """Rows and columns of a region and a margin."""
    margin = max(1, region.size // 20)
    rows = slice(max(0, region.top - margin), region.bottom + margin)
    return rows, slice(max(0, region.left - margin), region.right + margin)


def _one(picture: Picture, found: Sequence[Candidate]) -> Digit:
    if not found:
        everything = Box(left=0, top=0, width=picture.width, height=picture.height)
        return Digit(pixels=np.zeros((28, 28), np.uint8), box=everything, warnings=(Warning.BLANK,))
    best = found[0]
    several = any(
        each.score > _RIVAL * best.score
        and each.region.size > 0.5 * best.region.size
        and not set(each.region.parts) & set(best.region.parts)
        for each in found[1:]
    )
    return _digit(picture, best, (Warning.SEVERAL_DIGITS,) if several else ())


def _all(picture: Picture, ink: Ink, found: Sequence[Candidate]) -> tuple[Digit, ...]:
    pieces = [piece for each in found for piece in _split(ink, each)]
    best = max((each.score for each in pieces), default=0.0)
    strongest = max((each.contrast for each in pieces if each.score > 0.3 * best), default=0.0)
    likely = [each for each in pieces if each.score > _RIVAL_MANY * best and each.contrast > 0.3 * strongest]
    # The heights of one hand's digits are about the same.
    usual = float(np.median([each.region.height for each in likely])) if likely else 0.0
    likely = [each for each in likely if 0.4 * usual < each.region.height < 2.5 * usual]
    likely = [each for each in likely if not any(each.region.inside(other.region) for other in likely)]
    if len(likely) > MAX_DIGITS:
        raise PictureError(f"{len(likely)} digits; at most {MAX_DIGITS} are read in a picture; cut it into several")
    return tuple(_digit(picture, likely[each]) for each in reading_order([each.region for each in likely]))


def _split(ink: Ink, candidate: Candidate) -> list[Candidate]:
    """The digits of a region: itself, or those that touch each other in it."""
    region, best = candidate.region, [candidate]
    least = candidate.likeness - _PER_WIDTH * max(0.0, region.width / region.height - 1.3)
    if least > _TOUCHING:
        return best
    margin = max(1, region.size // 20)
    left, top = region.left - max(0, region.left - margin), region.top - max(0, region.top - margin)
    own = candidate.mask[top : top + region.height, left : left + region.width]
    for columns in cuts(own):
        parts = [_part(ink, candidate, own, *ends) for ends in pairwise([0, *columns, region.width])]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts) and min(part.likeness for part in whole) > least:
            best, least = whole, min(part.likeness for part in whole)
    return best


def _part(ink: Ink, whole: Candidate, own: Mask, start: int, stop: int) -> Candidate | None:
    mask = own[:, start:stop]
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    mask = mask[rows[0] : rows[-1] + 1]
    region = replace(
        whole.region,
        left=whole.region.left + start,
        right=whole.region.left + stop,
        top=whole.region.top + int(rows[0]),
        bottom=whole.region.top + int(rows[-1]) + 1,
    )
    amount = ink.amount[region.top : region.bottom, region.left : region.right]
    pixels = normalise(amount, mask)
    like = float(likeness([pixels])[0])
    return replace(whole, region=region, mask=mask, pixels=pixels, likeness=like)


def _digit(picture: Picture, candidate: Candidate, warnings: tuple[Warning, ...] = ()) -> Digit:
    if candidate.contrast < _FAINT:
        warnings += (Warning.LOW_CONTRAST,)
    wide = candidate.region.width > WIDEST * candidate.region.height
    if wide or candidate.likeness < USUAL or not is_drawn(candidate.pixels):
        warnings += (Warning.UNLIKE_A_DIGIT,)
    region, scale = candidate.region, picture.scale
    left, top = int(region.left * scale), int(region.top * scale)
    right = min(picture.width, round(region.right * scale))
    bottom = min(picture.height, round(region.bottom * scale))
    return Digit(
        pixels=candidate.pixels,
        box=Box(left=left, top=top, width=right - left, height=bottom - top),
        warnings=warnings,
    )
