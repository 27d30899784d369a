"""The checkpoint: trained weights with all it takes to rebuild, judge and reproduce them.

This is the contract between training and export. A checkpoint holds tensors and plain values only,
so that reading one never runs code.
"""

import math
import platform
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from train.errors import ArchitectureError, CheckpointError
from train.models import Recogniser, build
from train.storage import parse_tensors, read_bytes, save_tensors

FORMAT_VERSION = 1


def library_versions() -> dict[str, str]:
    """Returns the versions that training ran with."""
    # str(): torch's version is a class of its own, which weights_only=True does not admit.
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """One set of trained weights.

    Attributes:
        architecture: Name of the network, a key of `train.models.ARCHITECTURES`.
        arguments: The architecture's keyword arguments.
        weights: The network's state dictionary, in main memory.
        recipe: The fields of the recipe, as plain values.
        seed: The run's seed.
        epoch: The epoch, counted from 1, after which the weights were taken.
        metrics: Losses and accuracies (0 to 1) by name: `train_*`, `validation_*` and, once the
            run is over, `test_*` and `corruption_accuracy`, the mean over `train.transforms.corrupt`.
        data: `name` and `sha256` of the data set.
        versions: Library versions by name.
        format_version: Version of this layout.
    """

    architecture: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    recipe: dict[str, Any]
    seed: int
    epoch: int
    metrics: dict[str, float]
    data: dict[str, str]
    versions: dict[str, str] = field(default_factory=library_versions)
    format_version: int = FORMAT_VERSION

    def network(self) -> nn.Sequential:
        """Builds the network with these weights, in evaluation mode, in main memory.

        Raises:
            ArchitectureError: The architecture or its arguments are not known.
            CheckpointError: The weights are not those of the architecture.
        """
        # Built without storage first: no random numbers are drawn that would only be overwritten.
        with torch.device("meta"):
            network = build(self.architecture, **self.arguments)
        self._check_weights(network)
        network.to_empty(device="cpu").load_state_dict(self.weights)
        return network.eval()

    def recogniser(self) -> Recogniser:
        """Builds the recogniser around `network()`, in evaluation mode, in main memory."""
        return Recogniser(self.network()).eval()

    def _check_weights(self, network: nn.Module) -> None:
        expected = {name: _describe(tensor) for name, tensor in network.state_dict().items()}
        received = {name: _describe(tensor) for name, tensor in self.weights.items()}
        for name in sorted(expected.keys() | received.keys()):
            if expected.get(name) != received.get(name):
                raise CheckpointError(
                    f"the weights do not fit {self.architecture}: {name} is {received.get(name, 'absent')}, "
                    f"expected {expected.get(name, 'absent')}. Train again, or name the architecture they came from"
                )


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically.

    Raises:
        WriteError: The file could not be written. What was there before is still there.
    """
    payload = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    save_tensors(path, payload)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and makes sure that its network can be built.

    Raises:
        CheckpointError: The file is not a checkpoint that this version can use.
    """
    return parse(read_bytes(path), path)


def parse(content: bytes, path: Path) -> Checkpoint:
    """Decodes the content of the file at `path`; otherwise as `load`."""
    payload = parse_tensors(content, path)
    _check_format(path, payload)
    checkpoint = Checkpoint(**payload)
    try:
        checkpoint.network()
    except (ArchitectureError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return checkpoint


def _check_format(path: Path, payload: dict[str, Any]) -> None:
    version = payload.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, newer than the {FORMAT_VERSION} understood here; "
            "update this program or train again with it"
        )
    expected = {name: get_origin(kind) or kind for name, kind in get_type_hints(Checkpoint).items()}
    if missing := sorted(expected.keys() - payload.keys()):
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}; expected a checkpoint with {', '.join(expected)}. "
            "Give the best.pt that python -m train wrote"
        )
    if surplus := sorted(payload.keys() - expected.keys()):
        raise CheckpointError(f"{path} holds {', '.join(surplus)}, which a checkpoint of format {version} does not")
    for name, kind in expected.items():
        if not isinstance(payload[name], kind):
            raise CheckpointError(f"{path}: {name} is a {type(payload[name]).__name__}, expected {kind.__name__}")
    for name, tensor in payload["weights"].items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: weight {name!r} is a {type(tensor).__name__}, expected a tensor")
    for name in payload["data"].keys() ^ {"name", "sha256"}:
        raise CheckpointError(f"{path}: data has or lacks {name!r}; expected name and sha256. Train again")
    for name in expected.keys() - {"weights"}:
        _check_plain(path, name, payload[name])


def _check_plain(path: Path, where: str, value: object) -> None:
    """Refuses metadata that JSON could not carry to the bundle's manifest."""
    match value:
        case None | bool() | int() | str():
            return
        case float() if math.isfinite(value):
            return
        case list() | tuple():
            for item in value:
                _check_plain(path, where, item)
        case dict() if all(isinstance(key, str) for key in value):
            for key, item in value.items():
                _check_plain(path, f"{where}.{key}", item)
        case _:
            raise CheckpointError(
                f"{path}: {where} holds {value!r:.60}, a {type(value).__name__}; "
                "expected plain, finite values. Train again"
            )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
