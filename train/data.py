"""The data sets, read whole into memory as bytes.

MNIST is looked for under a root folder in torchvision's layout and downloaded there if absent.
`digits8x8` comes with scikit-learn and needs neither files nor a network.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from train.errors import DataError, unknown_name

logger = logging.getLogger(__name__)

DataName = Literal["mnist", "digits8x8"]

ROOT_VARIABLE = "DIGITS_DATA_ROOT"

_HOLD_OUT_SEED = 0

# MD5 of the four files of the original distribution, unpacked.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Images and the digits they show.

    Attributes:
        pixels: uint8 [N, 1, 28, 28], white ink (255) on black (0).
        labels: int64 [N], each 0 to 9.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.pixels.dtype != torch.uint8 or self.pixels.shape != (count, 1, 28, 28):
            raise DataError(f"pixels are {_describe(self.pixels)}, expected uint8 [{count}, 1, 28, 28]")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise DataError(f"labels are {_describe(self.labels)}, expected int64 [N]")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.pixels[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        """Returns the split in the memory of `device`."""
        return Split(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A training and a test split.

    Attributes:
        name: What `load` knows it by.
        train: Images to fit and to validate on.
        test: Images to look at once, when training is over.
        sha256: Digest of both splits' contents, in hexadecimal.
    """

    name: str
    train: Split
    test: Split
    sha256: str


def load(name: str, root: Path | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: `mnist` or `digits8x8`.
        root: Folder that holds `MNIST/raw`; by default the environment variable
            `DIGITS_DATA_ROOT` or, where that is not set, `data`.

    Raises:
        DataError: The name is not known, or the files are neither there nor to be had, or damaged.
    """
    match name:
        case "mnist":
            train, test = _mnist(root or Path(os.environ.get(ROOT_VARIABLE) or "data"))
        case "digits8x8":
            logger.warning(
                "digits8x8 is not MNIST: it has 1,797 images of 8 x 8 pixels, enlarged. "
                "Its figures do not compare with those of MNIST."
            )
            train, test = _digits8x8()
        case _:
            raise DataError(unknown_name("data set", name, get_args(DataName)))
    return Dataset(name=name, train=train, test=test, sha256=_sha256(train, test))


def hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Divides a split at random, but always in the same way: no run has learnt what another of that fraction holds out.

    Args:
        split: What to divide.
        fraction: Share of the images that go to the second part, rounded, at least one.

    Returns:
        The images to fit on and the images to validate on.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_HOLD_OUT_SEED))
    held_out = max(1, round(fraction * len(split)))
    return split[order[held_out:]], split[order[:held_out]]


def _mnist(root: Path) -> tuple[Split, Split]:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    folder = root / "MNIST" / "raw"
    if not all((folder / file).is_file() for file in MNIST_MD5):
        _download_mnist(root)
    for file, md5 in MNIST_MD5.items():
        _verify(folder / file, md5)
    train, test = (
        Split(
            read_image_file(str(folder / f"{part}-images-idx3-ubyte")).unsqueeze(1),
            read_label_file(str(folder / f"{part}-labels-idx1-ubyte")),
        )
        for part in ("train", "t10k")
    )
    return train, test


def _download_mnist(root: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        # torchvision checks the digest of each archive that it fetches.
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST is not in {root.resolve() / 'MNIST' / 'raw'} and could not be downloaded "
            f"({_last_line(error)}). Name the folder that holds MNIST/raw with --data-root or {ROOT_VARIABLE}, "
            "or use --data digits8x8, which needs no download"
        ) from error


def _verify(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            received = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if received != expected:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is damaged or not MNIST: its MD5 is {received}, expected "
            f"{expected}. Delete it to have it downloaded again, or name another folder with --data-root"
        )


def _digits8x8() -> tuple[Split, Split]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split = Split(_in_mnist_manner(torch.from_numpy(digits.images)), torch.from_numpy(digits.target).long())
    train, test = train_test_split(range(len(split)), test_size=0.2, random_state=0, stratify=digits.target)
    return split[torch.tensor(train)], split[torch.tensor(test)]


def _in_mnist_manner(images: Tensor) -> Tensor:
    """Enlarges [N, 8, 8] of 0..16 to 20 x 20 pixels in the middle of 28 x 28, as bytes."""
    enlarged = functional.interpolate(images.unsqueeze(1), size=(20, 20), mode="bilinear", align_corners=False)
    return functional.pad(enlarged * (255 / 16), (4, 4, 4, 4)).round().to(torch.uint8)


def _sha256(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.pixels.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
