from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from train.checkpoint import Checkpoint
from train.data import Dataset, Split
from train.models import build
from train.recipes import Recipe
from train.run import RunFolder


def make_split(count: int, seed: int) -> Split:
    """Ten fixed patterns under noise: learnt within a few steps, and every image is different."""
    patterns = torch.randint(0, 256, (10, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    noise = torch.randint(0, 256, (count, 1, 28, 28), generator=generator)
    return Split((patterns[labels] * 3 // 4 + noise // 4).to(torch.uint8), labels)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing from more threads, and lose much where processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset(name="patterns", train=make_split(220, seed=1), test=make_split(50, seed=2), sha256="0" * 64)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(**changes: object) -> Recipe:
        fields = {
            "architecture": "compact",
            "arguments": {"dropout": 0.1},
            "epochs": 3,
            "batch_size": 32,
            "optimiser": "adam",
            "learning_rate": 0.01,
        }
        return Recipe(**(fields | changes))

    return make


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        architecture="compact",
        arguments={"dropout": 0.1},
        weights=build("compact").state_dict(),
        recipe={"architecture": "compact"},
        seed=7,
        epoch=2,
        metrics={"validation_loss": 0.5},
        data={"name": "patterns", "sha256": "0" * 64},
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "test")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder
