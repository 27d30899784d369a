"""The folder of one run.

`best.pt` is the checkpoint that leaves training. `last.pt` holds what an interrupted run needs to
go on. `history.json` is for people and plots.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from train.data import Dataset
from train.errors import CheckpointError, RunError
from train.recipes import Recipe
from train.storage import make_folder, parse_tensors, read_bytes, save_tensors

# Version of the layout of `last.pt` and `history.json`.
FORMAT_VERSION = 1

_CHANGE_NAME = "--name to keep it and write elsewhere"


def identify(
    recipe: Recipe, dataset: Dataset, *, seed: int, device: torch.device, precision: torch.dtype, workers: int
) -> dict[str, Any]:
    """Returns, as plain values, what two runs must share to give the same numbers."""
    fields = asdict(recipe)
    teacher = None
    if recipe.teacher is not None:
        # Its content counts, not where it lies: the recipe is published with the model.
        path = Path(recipe.teacher)
        fields["teacher"], teacher = path.name, hashlib.sha256(read_bytes(path)).hexdigest()
    return {
        "recipe": fields,
        "teacher": teacher,
        "seed": seed,
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "device": device.type,
        "precision": str(precision).removeprefix("torch."),
        "workers": workers,
        "format_version": FORMAT_VERSION,
    }


def check_name(name: str) -> None:
    """Makes sure that a run's name can be that of a folder.

    Raises:
        RunError: It cannot.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise RunError(f"--name is {name!r}; it must be the plain name of a folder, to be made in --runs")


@dataclass(frozen=True)
class RunFolder:
    """Where one run keeps its files."""

    path: Path

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch so far."""
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        """The state after the latest epoch."""
        return self.path / "last.pt"

    @property
    def history(self) -> Path:
        """The metrics of all epochs."""
        return self.path / "history.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that a run writes."""
        return self.best, self.last, self.history

    @contextmanager
    def reserved(self, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Makes the folder and keeps other runs out of it, if it may be used as asked; deletes nothing.

        Raises:
            RunError: It holds a run and neither flag is set, or there is nothing to resume, or another run is under
                way in it, or it cannot be written to.
        """
        if resume and not os.path.exists(self.path):  # False, too, where the name is too long for a folder
            raise RunError(f"there is no run in {self.path}; start it without --resume, or check --name and --runs")
        make_folder(self.path, "choose a folder with --runs")
        try:
            with FileLock(self.path / ".lock", timeout=0):
                self._check(resume=resume, overwrite=overwrite)
                yield
        except Timeout as error:
            raise RunError(f"another run is under way in {self.path}; wait for it, or {_CHANGE_NAME}") from error

    def _check(self, *, resume: bool, overwrite: bool) -> None:
        if resume and not (self.last.is_file() and self.best.is_file()):
            raise RunError(f"{self.path} holds no finished epoch to resume from; start again with --overwrite")
        if not resume and not overwrite and any(file.exists() for file in self.files):
            raise RunError(
                f"{self.path} holds a run already; give --resume to go on with it, --overwrite to replace it or "
                + _CHANGE_NAME
            )

    def clear(self) -> None:
        """Deletes the files of an earlier run."""
        for file in self.files:
            file.unlink(missing_ok=True)

    def save_state(self, identity: dict[str, Any], state: dict[str, Any]) -> None:
        """Writes `last.pt`."""
        save_tensors(self.last, {"identity": identity, "state": state})

    def load_state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Reads the state from `last.pt`.

        Raises:
            CheckpointError: The file is damaged or something else.
            RunError: It belongs to a run that is not the one asked for.
        """
        payload = parse_tensors(read_bytes(self.last), self.last)
        if payload.keys() != {"identity", "state"}:
            raise CheckpointError(f"{self.last} is not the state of a run; start again with --overwrite")
        if differences := "; ".join(_differences(payload["identity"], identity)):
            raise RunError(
                f"{self.path} holds another run: {differences}. Resume with the values it was started with, "
                f"or give --overwrite to replace it or {_CHANGE_NAME}"
            )
        state: dict[str, Any] = payload["state"]
        return state


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(stored.keys() | asked.keys()):
        before, now = stored.get(key), asked.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now)
        elif before != now:
            yield f"{key} was {before}, now {now}"
