"""When a measurement may end: what was measured agrees with itself."""

from collections.abc import Sequence

import numpy as np


def is_stable(windows: Sequence[Sequence[float]], *, count: int, agreement: float) -> bool:
    """Whether the windows have settled: each figure of the last `count` lies within a share of its mean over them.

    So does its mean over all windows, for that is what the result will be.

    This decides when to stop, and what is said of the result. It never decides which windows count: leaving out those
    that were unlike the others would leave out just the stalls that callers notice.

    Args:
        windows: Figures of each window, in their order; NaN where a window has none.
        count: How many have to agree.
        agreement: How closely, as a share of the mean.
    """
    if len(windows) < count:
        return False
    figures = np.array(windows, np.float64)
    last = figures[-count:]
    means = last.mean(axis=0)
    # NaN compares as not close.
    return bool(np.all(np.abs(np.vstack([last, figures.mean(axis=0)]) - means) <= agreement * means))
