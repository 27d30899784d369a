"""Version 1 of the contracts."""

LOW_CONFIDENCE = 0.9
"""An answer whose digit is less probable than this is warned of. Of MNIST's test images `pretrained/champion` is that
unsure of 0.4 %, and of 14 of the 29 that it misreads; of pictures that show no digit it may be sure all the same."""


def doubts(probability: float) -> tuple[str, ...]:
    """What `Prediction.warnings` say of an answer whose digit has this probability."""
    return ("low_confidence",) if probability < LOW_CONFIDENCE else ()
