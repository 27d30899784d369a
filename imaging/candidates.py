"""The regions of a picture's strokes that may be digits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from imaging import segment
from imaging.evidence import evidence, with_holders
from imaging.ink import Ink
from imaging.likeness import likeness
from imaging.normalise import normalise, stroke_width
from imaging.segment import Mask, Region

# Regions that are looked at closely, the largest ones.
_MAX_CANDIDATES = 12
_MAX_CANDIDATES_MANY = 300
_MAX_PARTS_ONE, _MAX_PARTS_MANY = 100, 800

# Of the picture's longer side: what is smaller is a speck.
_LEAST_ONE, _LEAST_MANY = 0.02, 0.008

# Of a digit's size: how far from it a part of it may be.
_REACH = 0.25

# What is left of the evidence for a region without the fragments around it.
_ALONE = 0.6

# Of each other: contrasts and widths of strokes by one pen. Of a digit's size: how far apart its pieces may be.
_SAME_PEN = 0.5
_STREWN = 0.7

# And for one together with neighbours that may be digits of their own.
_WHOLE = 0.9

# Of the smaller one's ink: two regions that share no more are two things.
_SHARED = 0.1


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

    @cached_property
    def thickness(self) -> float:
        """How much ink lies along its strokes: their width in pixels times its contrast."""
        return self.contrast * stroke_width(self.mask)

    def is_apart(self, other: "Candidate") -> bool:
        """Whether it is another thing, not a part of the other one or the same seen otherwise."""
        rows, columns = self.region.surroundings
        their_rows, their_columns = other.region.surroundings
        top, left = max(rows.start, their_rows.start), max(columns.start, their_columns.start)
        own = self.mask[top - rows.start :, left - columns.start :]
        theirs = other.mask[top - their_rows.start :, left - their_columns.start :]
        height, width = (min(sizes) for sizes in zip(own.shape, theirs.shape, strict=True))
        shared = np.count_nonzero(own[:height, :width] & theirs[:height, :width])
        return bool(shared <= _SHARED * min(np.count_nonzero(self.mask), np.count_nonzero(other.mask)))


def candidates(ink: Ink, mask: Mask, *, many: bool) -> list[Candidate]:
    """What may be a digit, the likeliest first.

    Args:
        ink: What the strokes were found in.
        mask: The strokes.
        many: Whether to look for small ones, too, and for none that neighbours could be a part of.
    """
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
    found = [
        Candidate(
            region=region,
            mask=own,
            pixels=pixels,
            contrast=contrast,
            likeness=float(like),
            score=score,
        )
        for region, (own, pixels, contrast), like, score in zip(regions, cuts_out, likes, scores, strict=True)
    ]
    return likeliest_first(found)


def likeliest_first(found: Iterable[Candidate]) -> list[Candidate]:
    """Candidates in order of the evidence for them."""
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
    cut = region.surroundings
    own = np.isin(labels[cut], region.parts)
    amount = ink.amount[cut]
    return own, normalise(amount, own), float(np.median(amount[own]))
