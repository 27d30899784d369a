"""Chooses the probe set: test images by which a server checks a model before it answers anybody."""

import numpy as np

from bundle import probe
from export.gate import TestSet

# A server asks all of them at each start and at each new version: a fraction of a second.
_IMAGES_PER_DIGIT = 20

_SEED = 0


def choose(test: TestSet) -> bytes:
    """The content of a bundle's `probe.bin`: as many images of each digit, always the same ones."""
    random = np.random.default_rng(_SEED)
    chosen = []
    for digit in range(10):
        images = np.flatnonzero(test.labels == digit)
        chosen += random.permutation(images)[:_IMAGES_PER_DIGIT].tolist()
    return probe.write(
        probe.Example(test.pixels[image].tobytes(), int(test.labels[image]), tuple(test.reference[image].tolist()))
        for image in sorted(chosen)
    )
