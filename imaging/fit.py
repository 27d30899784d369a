"""`python -m imaging.fit DATA_ROOT`: fit what `imaging.likeness` measures by to MNIST's training images."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imaging.likeness import SUBSPACES, features

DIMENSIONS = 12


def fit(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """float16 [10, 196, DIMENSIONS]: for each digit the directions that hold the most of its images.

    Args:
        images: uint8 [N, 28, 28].
        labels: uint8 [N].
    """
    rows = features(list(images))
    digits = (rows[labels == digit] for digit in range(10))
    return np.stack([np.linalg.eigh(each.T @ each).eigenvectors[:, -DIMENSIONS:] for each in digits]).astype(np.float16)


def main() -> None:
    """Read the training images and labels as MNIST has them, unpacked, from DATA_ROOT/MNIST/raw."""
    raw = Path(sys.argv[1]) / "MNIST" / "raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    np.savez_compressed(SUBSPACES, subspaces=fit(images, labels))


if __name__ == "__main__":
    main()
