"""From a digit of 28 x 28 pixels to the path of the pen that wrote it, which any pen can follow at any size."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.floating]

# The digit is enlarged by this much before it is thinned, so that the path is known to a fraction of a pixel.
_ENLARGED = 4

# What is ink is judged beside what lies within so many of MNIST's pixels, where they differ by more than a share of
# the darkest: faint strokes are ink and small loops are open beside strokes of the full tone. Where all is alike, and
# for the faintest, the share of the darkest decides.
_WINDOW = 5
_CONTRAST = 0.2
_INK = 0.42
_FAINTEST = 0.12

# A distance field has so many cells for the larger side of the digit, or more, so that the line is some cells wide.
_LEAST_SIDE = 256
_MOST_SIDE = 1024
_CELLS = 3.0

# What it reaches to around the ink, in units of strokes.
_MARGIN = 0.12

# A path says too little of a digit, such as one with a loop that has run full, where more than this share of the ink
# is farther away from it than this multiple of the pen's radius.
_UNEXPLAINED = 0.01
_FAR = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Strokes:
    """The path of a pen. Unit of length: the larger side of the digit. The origin is the digit's middle.

    Attributes:
        points: float32 [K, 2], x and y.
        links: int64 [M, 2], which points are joined.
        surplus: float32 [K], what the ink's radius has on top of the pen's at each point. All 0, but for digits whose
            path alone says too little.
        radius: The median radius of the pen that wrote it.
        least_radius: The smallest radius of a pen that can write it legibly.
    """

    points: Floats
    links: npt.NDArray[np.int64]
    surplus: Floats
    radius: float
    least_radius: float

    def field(self, view: Matrix, shape: tuple[int, int], *, width: float, change: Floats | None = None) -> Floats:
        """Distance to the edge of the ink, negative inside, in pixels: float32 [height, width].

        Args:
            view: Homography, 3 x 3, from the unit of strokes to pixels.
            shape: Height and width of the picture.
            width: Of the line, in units of strokes.
            change: float32 [K]: factor of the line's width at each point.
        """
        radius = max(width / 2, self.least_radius)
        side = round(np.clip(_CELLS / 2 / radius, _LEAST_SIDE, _MOST_SIDE))
        factor = np.ones(len(self.points), np.float32) if change is None else change
        if self.least_radius:
            # The holes that such a digit still has are small.
            factor = np.minimum(factor, 1)
        radii = radius * factor + self.surplus
        middle = round(side * (0.5 + float(radii.max()) + _MARGIN))
        near = self._field(side, middle, radii)
        from_cells = np.linalg.inv(np.array([[side, 0, middle], [0, side, middle], [0, 0, 1]]))
        seen = cv2.warpPerspective(
            near, view @ from_cells, shape[::-1], borderMode=cv2.BORDER_CONSTANT, borderValue=_MARGIN
        )
        return np.asarray(seen, np.float32) * np.float32(scale(view))

    def line(self, width: float) -> float:
        """The width, in units of strokes, of the line that a pen of that width draws."""
        return max(width, 2 * self.least_radius)

    def _field(self, side: int, middle: int, radii: Floats) -> Floats:
        """Distance to the edge of the ink in units of strokes, `side` cells for each, the origin in cell `middle`."""
        size = 2 * middle
        start, end = self.links.T
        steps = 2 + int(side * np.abs(self.points[start] - self.points[end]).max())
        along = np.linspace(0, 1, steps, dtype=np.float32)[:, None, None]
        points = (self.points[start] * (1 - along) + self.points[end] * along).reshape(-1, 2)
        spread = (radii[start] * (1 - along[..., 0]) + radii[end] * along[..., 0]).ravel().astype(np.float32)
        if self.surplus.any():
            return _around_discs(points * side + middle, spread * side, size) / np.float32(side)
        cells = np.rint(points * side + middle).astype(np.intp)
        canvas = np.ones((size, size), np.uint8)
        canvas[cells[:, 1], cells[:, 0]] = 0
        _, labels = cv2.distanceTransformWithLabels(
            canvas, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        # The transform finds the nearest cell of the path; the distance to the point that lies in it is exact.
        nearest = np.zeros(labels.max() + 1, np.intp)
        nearest[labels[cells[:, 1], cells[:, 0]]] = np.arange(len(points))
        which = nearest[labels]
        grid = (np.arange(size, dtype=np.float32) - np.float32(middle)) / side
        away = np.hypot(grid[None] - points[which, 0], grid[:, None] - points[which, 1])
        return np.asarray(away - spread[which], np.float32)


def _around_discs(middles: Floats, radii: Floats, size: int) -> Floats:
    """Distance to the edge of discs that overlap, negative inside: float32 [size, size]."""
    ink = np.zeros((size, size), np.uint8)
    for (x, y), radius in zip(np.rint(middles * 16).astype(int), np.rint(radii * 16).astype(int), strict=True):
        cv2.circle(ink, (int(x), int(y)), max(0, int(radius)), 1, -1, cv2.LINE_8, 4)
    outside, inside = (cv2.distanceTransform(each, cv2.DIST_L2, cv2.DIST_MASK_5) for each in (1 - ink, ink))
    # An edge of whole cells would show steps.
    return np.asarray(cv2.GaussianBlur(outside - inside, (0, 0), 1.5), np.float32)


def scale(view: Matrix) -> float:
    """Pixels for the unit of strokes in the middle of a digit."""
    (a, b, x), (c, d, y), (e, f, _) = view / view[2, 2]
    return float(np.sqrt(abs((a - x * e) * (d - y * f) - (b - x * f) * (c - y * e))))


def trace(pixels: Bytes) -> Strokes:
    """The strokes of a digit, uint8 [28, 28], white on black."""
    ink = _without_specks(_ink(pixels))
    thin = _thin(ink)
    ys, xs = np.nonzero(thin)
    index = np.full((thin.shape[0] + 1, thin.shape[1] + 2), -1)
    index[ys, xs + 1] = np.arange(len(ys))
    pairs = [
        np.stack([np.arange(len(ys)), index[ys + down, xs + 1 + right]], axis=1)
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1))
    ]
    links = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    # A single point is joined to itself.
    links = links[links[:, 1] >= 0] if len(ys) > 1 else np.zeros((1, 2), np.int64)
    # A radius is that from the middle of a pixel to the edge of the last one.
    radii = cv2.distanceTransform(ink, cv2.DIST_L2, cv2.DIST_MASK_5)[ys, xs] - 0.5
    path = _smooth(np.stack([xs, ys, radii], axis=1).astype(np.float32), links)
    points, radius = path[:, :2], path[:, 2]
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(float((high - low).max()), 1.0)
    middle = float(np.median(radius))
    away = cv2.distanceTransform(1 - thin, cv2.DIST_L2, cv2.DIST_MASK_5)
    explained = np.mean(away[ink > 0] > _FAR * (middle + 0.5)) < _UNEXPLAINED
    return Strokes(
        points=((points - (low + high) / 2) / side).astype(np.float32),
        links=links,
        surplus=(radius * 0 if explained else (radius - middle) / side).astype(np.float32),
        radius=middle / side,
        least_radius=0.0 if explained else middle / side,
    )


def _ink(pixels: Bytes) -> Bytes:
    """What is ink, 1 or 0, enlarged; thresholds as in Bernsen, "Dynamic thresholding of grey-level images", 1986."""
    large = cv2.resize(pixels, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_CUBIC)
    tone = cv2.GaussianBlur(large, (0, 0), 0.45 * _ENLARGED) / np.float32(large.max())
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_WINDOW * _ENLARGED + 1,) * 2)
    high, low = cv2.dilate(tone, around), cv2.erode(tone, around)
    least = np.where(high - low > _CONTRAST, np.maximum((high + low) / 2, _FAINTEST), _INK)
    return (tone > least).astype(np.uint8)


def _without_specks(ink: Bytes) -> Bytes:
    """The parts that are more than a twenty-fifth of the largest one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    kept = 1 + np.nonzero(areas > 0.04 * areas.max())[0]
    return np.isin(labels, kept).astype(np.uint8)


def _smooth(path: Floats, links: npt.NDArray[np.int64]) -> Floats:
    """The path [K, C] as a steady hand would have drawn it."""
    inner = (degree := np.bincount(links.ravel(), minlength=len(path))) >= 2
    for _ in range(6):
        total = np.zeros_like(path)
        np.add.at(total, links[:, 0], path[links[:, 1]])
        np.add.at(total, links[:, 1], path[links[:, 0]])
        path[inner] = 0.5 * path[inner] + 0.5 * total[inner] / degree[inner, None]
    return path


def _thin(ink: Bytes) -> Bytes:
    """The middle lines of the ink, by the algorithm of Zhang and Suen."""
    weights = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    thin = cv2.copyMakeBorder(ink, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    while True:
        before = thin
        for kept in _kept():
            around = cv2.filter2D(thin, cv2.CV_8U, weights, borderType=cv2.BORDER_CONSTANT)
            thin = cv2.bitwise_and(thin, cv2.LUT(around, kept))
        if np.array_equal(before, thin):
            return np.asarray(thin[1:-1, 1:-1], np.uint8)


@functools.cache
def _kept() -> tuple[Bytes, Bytes]:
    """Whether a pixel stays, by the neighbours that it has, clockwise from the top: for either half of a step."""
    tables = np.ones((2, 256), np.uint8)
    for code in range(256):
        p = [code >> bit & 1 for bit in range(8)]
        turns = sum(not a and b for a, b in zip(p, p[1:] + p[:1], strict=True))
        if 2 <= sum(p) <= 6 and turns == 1:
            top, right, bottom, left = p[::2]
            tables[0, code] = right and bottom and (top or left)
            tables[1, code] = top and left and (right or bottom)
    return tables[0], tables[1]
