"""A model as servicers see it: one version, its description, and what it answers."""

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from serve.batcher import Answer, Counts
from serve.engines import Pixels
from serve.errors import DeadlineExceeded


@dataclass(frozen=True, kw_only=True)
class Description:
    """What callers may know of a model.

    Attributes:
        name: What callers ask for.
        version: A whole number, as text.
        architecture: The network's, by the name that training knows it by.
        labels: What each position of the probabilities stands for.
        engine: The library that computes, such as "onnxruntime"; empty before the start.
        device: Where it computes, "cpu" or "cuda:<index>"; empty before the start.
        precision: Its arithmetic, "fp32", "fp16" or "int8"; empty before the start.
        max_batch: Most images in one engine call.
        max_images_per_request: Most images in one request.
        sha256: Digest of the file that the engines load.
        accuracy: Share of right answers, 0 to 1, that the parity gate measured with that file.
    """

    name: str
    version: str
    architecture: str
    labels: list[str]
    engine: str = ""
    device: str = ""
    precision: str = ""
    max_batch: int
    max_images_per_request: int
    sha256: str
    accuracy: float


class Model(ABC):
    """One version of one model.

    Attributes:
        description: What callers may know.
    """

    def __init__(self, description: Description, *, max_deadline_s: float) -> None:
        self.description = description
        self._max_deadline_s = max_deadline_s

    def __str__(self) -> str:
        model = self.description
        return f"{model.name} version {model.version} with {model.engine} on {model.device}"

    @property
    @abstractmethod
    def refusal(self) -> str | None:
        """Why no requests are accepted; None while they are."""

    @abstractmethod
    async def counts(self) -> Counts:
        """What became of the requests so far."""

    @abstractmethod
    async def _submit(self, pixels: Pixels, deadline: float) -> Answer:
        """See `Batcher.submit`."""

    async def classify(self, pixels: Pixels, *, timeout_s: float | None) -> Answer:
        """Classify one caller's images.

        Args:
            pixels: uint8 [N, 1, 28, 28], N from 1 to the most that the description allows.
            timeout_s: Seconds after which the caller has no use for the answer; None leaves it to the configuration.

        Raises:
            ServeError: See `Batcher.submit`.
        """
        seconds = self._max_deadline_s if timeout_s is None else min(timeout_s, self._max_deadline_s)
        try:
            async with asyncio.timeout(seconds):
                return await self._submit(pixels, time.monotonic() + seconds)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {seconds:g} s") from None
