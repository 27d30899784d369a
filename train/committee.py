"""`python -m train.committee A/best.pt B/best.pt …`: several trained networks as one, which exports and serves as such.

Nothing is trained. The committee is tested once, like a run, and its accuracy written beside those of the sweeps.
"""

import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from train import checkpoint, command, data
from train.checkpoint import Checkpoint
from train.conditions import conditions
from train.data import Dataset
from train.errors import CheckpointError, RunError
from train.hardware import DeviceName, choose_device, device_label
from train.inference import examine
from train.models import parameter_count
from train.recipes import RECIPES
from train.run import RunFolder, check_name
from train.storage import make_folder, read_bytes, save_json
from train.sweep import LIBRARIES, result_path


@dataclass(frozen=True, kw_only=True)
class Options:
    """Join trained networks into one."""

    members: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Checkpoints written by python -m train; at least two, of the same data set."""

    name: str = "committee"
    """Name of the run, which is that of its folder."""

    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Folder that holds the folders of all runs."""

    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds MNIST/raw; by default $DIGITS_DATA_ROOT, else data."""

    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    overwrite: bool = False
    """Replace an earlier run of that name."""

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("benchmarks/results")
    """Folder that accuracy-NAME.json, or for other data than MNIST accuracy-NAME-DATA.json, is written to."""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise RunError(f"received {len(self.members)} checkpoint; a committee has at least two members")
        check_name(self.name)
        if self.name in RECIPES:
            raise RunError(f"--name is {self.name}, which is a recipe's; its result would be overwritten")


def convene(options: Options) -> Checkpoint:
    """Joins, tests and writes.

    Returns:
        The committee's checkpoint, with test metrics.

    Raises:
        CheckpointError: A member cannot be used, or they were trained on different data.
        TrainError: Data, device or folder cannot be used.
    """
    folder = RunFolder(options.runs / options.name)
    device = choose_device(options.device)
    make_folder(options.results, "choose another folder with --results")
    with folder.reserved(resume=False, overwrite=options.overwrite):
        # Each file is read once: training may replace it at any moment.
        stored = [read_bytes(path) for path in options.members]
        members = [checkpoint.parse(content, path) for content, path in zip(stored, options.members, strict=True)]
        dataset = _common_dataset(options, members)
        committee = join(members, digests=[hashlib.sha256(content).hexdigest() for content in stored])
        committee = replace(committee, metrics=examine(committee.recogniser().to(device), dataset.test))
        folder.clear()
        checkpoint.save(folder.best, committee)
    _write_result(
        result_path(options.results, options.name, dataset.name), options.name, committee, device_label(device)
    )
    return committee


def join(members: Sequence[Checkpoint], digests: Sequence[str]) -> Checkpoint:
    """Returns one checkpoint with the weights of all members.

    Args:
        members: What to join.
        digests: SHA-256 of each member's file, to tell where the weights came from.
    """
    return Checkpoint(
        architecture="committee",
        arguments={"members": [{"architecture": each.architecture, "arguments": each.arguments} for each in members]},
        weights={
            # Sequential's first module is the committee, see train.models.
            f"0.members.{index}.{name}": tensor
            for index, member in enumerate(members)
            for name, tensor in member.weights.items()
        },
        recipe={
            "members": [
                {"architecture": member.architecture, "seed": member.seed, "epoch": member.epoch, "sha256": digest}
                for member, digest in zip(members, digests, strict=True)
            ]
        },
        seed=0,
        epoch=0,  # of its own it has none
        metrics={},
        data=members[0].data,
    )


def _common_dataset(options: Options, members: Sequence[Checkpoint]) -> Dataset:
    for path, member in zip(options.members, members, strict=True):
        if member.data != members[0].data:
            raise CheckpointError(
                f"{path} was trained on {member.data}, {options.members[0]} on {members[0].data}; "
                "a committee's members share their data"
            )
    dataset = data.load(members[0].data["name"], options.data_root)
    if dataset.sha256 != members[0].data["sha256"]:
        raise CheckpointError(
            f"the members were trained on {dataset.name} with SHA-256 {members[0].data['sha256']}, but the one found "
            f"has {dataset.sha256}; name the right folder with --data-root"
        )
    return dataset


def _write_result(path: Path, name: str, committee: Checkpoint, device: str) -> None:
    document = {
        "recipe": {"name": name, "architecture": committee.architecture} | committee.recipe,
        "parameters": parameter_count(committee.network()),
        "data": committee.data,
        "mean": committee.metrics,
        "standard_deviation": None,
        "runs": [],
        "conditions": conditions(LIBRARIES) | {"device": device},
    }
    save_json(path, document)


def main() -> int:
    """Exit status: 0, 1 after a message, or 130 when interrupted."""
    return command.run(_main, interrupted="there is no committee")


def _main() -> None:
    options = tyro.cli(Options, prog="python -m train.committee", config=(tyro.conf.FlagCreatePairsOff,))
    metrics = convene(options).metrics
    best = RunFolder(options.runs / options.name).best
    print(
        f"{len(options.members)} networks: test accuracy {metrics['test_accuracy']:.2%}, "
        f"corruption accuracy {metrics['corruption_accuracy']:.2%}, written to {best}\n"
        f"next: python -m export.to_onnx {shlex.quote(str(best))}"
    )


if __name__ == "__main__":
    sys.exit(main())
