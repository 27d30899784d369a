"""From ink to the regions that may be digits."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.ink import Ink, Map

Mask = npt.NDArray[np.bool_]
"""bool [height, width]."""

# Of the ink around it: where a stroke ends.
_EDGE = 0.4

# Of that threshold: how faint a stroke may be between two parts of it. Of its ink: how much is two pixels beside it.
_FAINT_EDGE = 0.5
_RIDGE = 1.25

# A bridge has at most so many pixels for the picture's longer side; some more in a small one.
_BRIDGE = 0.012
_LEAST_BRIDGE = 3

# Longer side in pixels of pictures that hold a digit and nothing else, whose thin strokes are faint: MNIST's.
SMALL = 40
_EDGE_SMALL = 0.15

# In parts of the picture's longer side, and in number: what is looked at for boxes.
_LEAST_FRAME, _MAX_FRAMES = 0.01, 100

# No ink is fainter: the paper's own texture is.
LEAST_AMOUNT = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Parts of the ink that belong together.

    Attributes:
        left: Of the smallest upright rectangle around it, as the three that follow.
        top: Pixels from the picture's top.
        right: The first column that is no longer in it.
        bottom: The first row that is no longer in it.
        parts: Labels of the connected parts.
        area: Pixels with ink.
    """

    left: int
    top: int
    right: int
    bottom: int
    parts: tuple[int, ...]
    area: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def size(self) -> int:
        """The longer side in pixels."""
        return max(self.width, self.height)

    @property
    def surroundings(self) -> tuple[slice, slice]:
        """Rows and columns of it and a margin."""
        margin = max(1, self.size // 20)
        rows = slice(max(0, self.top - margin), self.bottom + margin)
        return rows, slice(max(0, self.left - margin), self.right + margin)

    def gap(self, other: "Region") -> float:
        """Pixels between the two rectangles; 0 where they meet."""
        across = max(self.left, other.left) - min(self.right, other.right)
        down = max(self.top, other.top) - min(self.bottom, other.bottom)
        return float(np.hypot(max(0, across), max(0, down)))

    def inside(self, other: "Region") -> bool:
        """Whether its rectangle lies within the other's, and touches it nowhere."""
        return (
            other.left < self.left and self.right < other.right and other.top < self.top and self.bottom < other.bottom
        )


def join(regions: Sequence[Region]) -> Region:
    """Several as one."""
    return Region(
        left=min(each.left for each in regions),
        top=min(each.top for each in regions),
        right=max(each.right for each in regions),
        bottom=max(each.bottom for each in regions),
        parts=tuple(part for each in regions for part in each.parts),
        area=sum(each.area for each in regions),
    )


def strokes(ink: Ink) -> Mask:
    """Where there is ink: bool [height, width]. The threshold follows the strength of the ink around."""
    amount = ink.amount
    height, width = amount.shape
    side = max(height, width)
    share = min(1.0, 160 / side)
    small = cv2.resize(
        amount, (max(1, round(width * share)), max(1, round(height * share))), interpolation=cv2.INTER_AREA
    )
    reach = max(1, round(0.3 * max(small.shape)))
    level = cv2.dilate(small, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    level = cv2.blur(level, (reach, reach))
    level = cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)
    least = max(LEAST_AMOUNT, 4 * ink.noise)
    edge = _EDGE_SMALL if side <= SMALL else _EDGE
    found = amount > np.maximum(edge * np.asarray(level), least)
    faint = amount > np.maximum(_FAINT_EDGE * edge * np.asarray(level), least)
    return _bridged(found, faint & _ridges(amount))


def _ridges(amount: Map) -> Mask:
    """Where there is more ink than on either side of it, in one direction or another."""
    framed = np.pad(amount, 2, mode="edge")
    height, width = amount.shape

    def moved(down: int, right: int) -> Map:
        return framed[2 + down : 2 + down + height, 2 + right : 2 + right + width]

    ridges = np.zeros(amount.shape, bool)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        beside = np.maximum(moved(down, right), moved(-down, -right))
        beyond = np.maximum(moved(2 * down, 2 * right), moved(-2 * down, -2 * right))
        ridges |= (amount >= beside) & (amount > _RIDGE * beyond)
    return ridges


def _bridged(strokes: Mask, bridges: Mask) -> Mask:
    """The strokes and those of the bridges that join two of their parts and are short."""
    count, parts = cv2.connectedComponents(strokes.astype(np.uint8), connectivity=8)
    total, labels = cv2.connectedComponents((bridges & ~strokes).astype(np.uint8), connectivity=8)
    between = np.asarray(labels, np.int64)
    here = np.nonzero(between)
    which, framed = between[here], np.pad(np.asarray(parts, np.int64), 1)
    # A bridge leads from the lowest to the highest number of the parts that it touches.
    lowest, highest = np.full(total, count), np.zeros(total, np.int64)
    for down, right in np.ndindex(3, 3):
        part = framed[here[0] + down, here[1] + right]
        np.maximum.at(highest, which, part)
        np.minimum.at(lowest, which, np.where(part > 0, part, count))
    short = np.bincount(which, minlength=total) <= max(_LEAST_BRIDGE, _BRIDGE * max(strokes.shape))
    return np.asarray(strokes | ((lowest < highest) & (highest > 0) & short)[between])


def parts(mask: Mask, *, least: float, most: int) -> tuple[npt.NDArray[np.int32], list[Region]]:
    """Connected parts: int32 [height, width] of their labels, 0 for paper, and each as a region, the largest first.

    Specks are left out: what is smaller than `least` of the picture, and all but the `most` largest parts.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sides = stats[:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_HEIGHT + 1].max(axis=1)
    sides[0] = 0
    order = np.argsort(-sides, kind="stable")[:most]
    order = order[sides[order] >= max(2, least * max(mask.shape))]
    regions = [
        Region(left=int(x), top=int(y), right=int(x + w), bottom=int(y + h), parts=(int(label),), area=int(area))
        for label, (x, y, w, h, area) in zip(order, stats[order], strict=True)
    ]
    return np.asarray(labels, np.int32), regions


def without_frames(mask: Mask) -> Mask:
    """The strokes but for boxes drawn around others, such as a form's or the edges of a sheet."""
    labels, regions = parts(mask, least=_LEAST_FRAME, most=_MAX_FRAMES)
    frames = [each.parts for each in regions if _is_frame(each, labels, regions)]
    return mask & ~np.isin(labels, frames) if frames else mask


def _is_frame(region: Region, labels: npt.NDArray[np.int32], others: Sequence[Region]) -> bool:
    if region.area > 0.4 * region.width * region.height:
        return False
    inside = any(other.inside(region) and other.size > 0.15 * region.size for other in others)
    if not inside:
        return False
    cut = np.isin(labels[region.top : region.bottom, region.left : region.right], region.parts)
    rim_y, rim_x = max(1, region.height // 6), max(1, region.width // 6)
    sides = (cut[:rim_y].any(axis=0), cut[-rim_y:].any(axis=0), cut[:, :rim_x].any(axis=1), cut[:, -rim_x:].any(axis=1))
    cut_off = (region.top == 0, region.bottom == labels.shape[0], region.left == 0, region.right == labels.shape[1])
    covered: list[bool] = [rim or float(side.mean()) > 0.8 for side, rim in zip(sides, cut_off, strict=True)]
    return sum(covered) >= 3


def group(regions: Sequence[Region], labels: npt.NDArray[np.int32], *, reach: float) -> list[Region]:
    """Regions with the fragments around them, such as the bar of a five; `reach` in parts of the larger one's size.

    Two that are about equally tall and side by side stay two.
    """
    groups: list[Region] = []
    for region in sorted(regions, key=lambda each: -each.height):
        near = [each for each in groups if _belongs(region, each, reach) and _is_near(region, each, labels, reach)]
        for each in near[:1]:
            groups.remove(each)
        groups.append(join([*near[:1], region]))
    return groups


def around(region: Region, parts: Sequence[Region], labels: npt.NDArray[np.int32], *, reach: float) -> Region:
    """A region with all that is near, be it as tall: pieces of a digit whose strokes are broken, or its neighbours."""
    near = [
        each for each in parts
        if each.parts[0] not in region.parts
        and each.size > 0.15 * region.size
        and _is_near(each, region, labels, reach)
    ]  # fmt: skip
    return join([region, *near])


def _belongs(small: Region, large: Region, reach: float) -> bool:
    """Whether one is a fragment of the other by their sizes, and may be by their rectangles."""
    if small.size < 0.12 * large.size or small.width > 1.2 * large.size:
        return False
    across = max(small.left, large.left) - min(small.right, large.right)
    down = max(small.top, large.top) - min(small.bottom, large.bottom)
    limit = reach * large.size
    if max(across, down) > limit:
        return False
    above = -across >= 0.5 * min(small.width, large.width)
    return small.height < 0.5 * large.height or (above and (small.height < 0.6 * large.height or down < 0.5 * limit))


def _is_near(small: Region, large: Region, labels: npt.NDArray[np.int32], reach: float) -> bool:
    """Whether there is ink of the larger one around the smaller."""
    margin = round(min(reach * large.size, 0.8 * small.size))
    top, left = max(0, small.top - margin), max(0, small.left - margin)
    around = labels[top : small.bottom + margin, left : small.right + margin]
    return bool(np.isin(around, large.parts).any())
