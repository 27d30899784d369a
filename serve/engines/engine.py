"""The contract between the batcher and whatever computes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""[N, 1, 28, 28], white ink on black, C-contiguous."""

Probabilities: TypeAlias = npt.NDArray[np.float32]
"""[N, 10], each row sums to one."""

IMAGE_SHAPE = (1, 28, 28)
IMAGE_BYTES = 784
CLASSES = 10


class Engine(Protocol):
    """One model, loaded and ready on one device. It belongs to the thread that opened it."""

    @property
    def name(self) -> str:
        """The library behind it, such as "onnxruntime"."""

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:<index>"."""

    @property
    def precision(self) -> str:
        """Its arithmetic: "fp32", "fp16" or "int8"."""

    def run(self, pixels: Pixels) -> Probabilities:
        """Classify N images, uint8 [N, 1, 28, 28] to float32 [N, 10], blocking until the answer is in host memory.

        The array returned is the caller's own: it must not change when the next call runs.
        """


OpenEngine: TypeAlias = Callable[[], AbstractContextManager[Engine]]
"""Loads the model on entering and frees the device on leaving; both happen on the thread that will use it."""
