"""How long an engine call takes, as a function of its images: learnt from the calls that were made."""

# Weight that the past keeps with each new call: what was seen a few hundred calls ago hardly counts.
_MEMORY = 0.99

# What is left of an estimate after each request that it alone has turned away.
_DOUBT = 0.95

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
        self._trust = 1.0

    def observe(self, images: int, seconds: float) -> None:
        """Learn from one call. What was in doubt counts less from here on."""
        memory = _MEMORY * self._trust
        self._trust = 1.0
        self._weight = self._weight * memory + 1
        self._images = self._images * memory + images
        self._seconds = self._seconds * memory + seconds
        self._squares = self._squares * memory + images * images
        self._products = self._products * memory + images * seconds
        mean = self._images / self._weight
        variance = self._squares / self._weight - mean * mean
        if variance > _VARIED * mean * mean:
            covariance = self._products / self._weight - mean * self._seconds / self._weight
            self._slope = max(0.0, covariance / variance)

    def doubt(self) -> None:
        """Expect a little less until the next call.

        To be called when a request was turned away though nothing was in its way: if all were, after a pause of the
        machine that looked like a slow call, no call would ever show that the engine is fast.
        """
        self._trust *= _DOUBT

    def __call__(self, images: int) -> float:
        """Seconds that a call with so many images is expected to take; 0 before the first call."""
        if not self._weight:
            return 0.0
        start = (self._seconds - self._slope * self._images) / self._weight
        return self._trust * (max(0.0, start) + self._slope * images)
