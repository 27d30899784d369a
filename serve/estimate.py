"""How long an engine call takes, as a function of its images: learnt from the calls that were made."""

# Weight that the past keeps with each new call: what was seen a few hundred calls ago hardly counts.
_MEMORY = 0.99

# Below this variance of the calls' sizes, relative to their mean's square, the slope stays as it was: calls that are
# all alike say nothing about others.
_VARIED = 0.01


class EngineTime:
    """A straight line through the calls seen, the latest counting most: seconds to begin, and seconds for each image.

    That engines are so predictable is what admission by deadline rests on; see Gujarati et al., "Serving DNNs like
    Clockwork", OSDI 2020.
    """

    def __init__(self) -> None:
        self._weight = self._images = self._seconds = self._squares = self._products = 0.0
        self._slope = 0.0

    def observe(self, images: int, seconds: float) -> None:
        """Learn from one call."""
        self._weight = self._weight * _MEMORY + 1
        self._images = self._images * _MEMORY + images
        self._seconds = self._seconds * _MEMORY + seconds
        self._squares = self._squares * _MEMORY + images * images
        self._products = self._products * _MEMORY + images * seconds
        mean = self._images / self._weight
        variance = self._squares / self._weight - mean * mean
        if variance > _VARIED * mean * mean:
            covariance = self._products / self._weight - mean * self._seconds / self._weight
            self._slope = max(0.0, covariance / variance)

    def __call__(self, images: int) -> float:
        """Seconds that a call with so many images is expected to take; 0 before the first call."""
        if not self._weight:
            return 0.0
        start = (self._seconds - self._slope * self._images) / self._weight
        return max(0.0, start) + self._slope * images
