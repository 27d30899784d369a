"""What a call returns: plain values, so that no caller needs to know protobuf."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imaging import Box


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One possible digit and its probability, 0 to 1."""

    digit: int
    probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The answer for one image.

    Attributes:
        digit: The most probable digit.
        probabilities: float32 [10], in digit order.
        top: The `top_k` most probable digits, most probable first; empty when none were asked for.
        warnings: What is doubtful about it, in the words of digits.proto; empty when nothing is. Of pixels at most
            "low_confidence", where the probability is below `protos.digits.v1.LOW_CONFIDENCE`.
        image: For `classify_pictures`, as what follows: index of the picture that the digit is in.
        box: What was cut out of the picture.
        pixels: uint8 [28, 28], what the model was given, if that was asked for.
    """

    digit: int
    probabilities: npt.NDArray[np.float32]
    top: tuple[Candidate, ...]
    warnings: tuple[str, ...] = ()
    image: int = 0
    box: Box | None = None
    pixels: npt.NDArray[np.uint8] | None = None

    @property
    def probability(self) -> float:
        """Probability of `digit`, 0 to 1."""
        return float(self.probabilities[self.digit])


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answer for all images of a call, in their order.

    Attributes:
        predictions: One per image.
        model: Name of the model that answered.
        version: Its version.
        queue_s: Seconds that the request waited for an engine.
        compute_s: Seconds from then until its last image was done.
        batch_size: Images in the engine call, other callers' included.
    """

    predictions: tuple[Prediction, ...]
    model: str
    version: str
    queue_s: float
    compute_s: float
    batch_size: int

    @property
    def digits(self) -> npt.NDArray[np.int64]:
        """The most probable digit of every image, int64 [N]."""
        return np.array([prediction.digit for prediction in self.predictions], np.int64)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A served model, as `GetModel` in digits.proto describes it."""

    name: str
    version: str
    architecture: str
    labels: tuple[str, ...]
    engine: str
    device: str
    precision: str
    max_batch_size: int
    max_images_per_request: int
    sha256: str
    accuracy: float
    last_load_error: str
