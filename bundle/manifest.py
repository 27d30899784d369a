"""The bundle's description as data: what the model is, what goes in, what comes out, and what proves it.

JSON with sorted keys and no timestamps, so that the same inputs give the same bytes.
"""

import dataclasses
import json
import re
import types
from dataclasses import dataclass
from typing import Any, NoReturn, Self, get_args, get_origin

from bundle.errors import ManifestError

FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output of the graph. A shape entry is a size, or the name of a dimension that varies."""

    name: str
    dtype: str
    shape: list[int | str]


# What every model of this project takes and gives: export writes graphs to it, serving loads nothing else.
INPUT = Tensor(name="pixels", dtype="uint8", shape=["batch", 1, 28, 28])
OUTPUT = Tensor(name="probabilities", dtype="float32", shape=["batch", 10])


@dataclass(frozen=True, kw_only=True)
class File:
    """Size and digest of one file of the bundle."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Refuse what cannot be a digest or a size."""
        if not _SHA256.fullmatch(self.sha256) or self.bytes < 0:
            raise ManifestError(
                f"a file's entry holds bytes={self.bytes}, sha256={self.sha256!r}; a digest was expected"
            )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the parity check measured, in short; `parity.json` has it whole. Accuracies are shares from 0 to 1."""

    images: int
    flips: int
    max_difference: float
    reference_accuracy: float
    candidate_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where the weights came from. `trained` is the checkpoint's own metadata (recipe, seed, epoch, metrics, data)."""

    sha256: str
    trained: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a server must know about a model before it loads one byte of it."""

    format: int = FORMAT
    name: str
    version: str
    architecture: str
    labels: list[str]
    input: Tensor
    output: Tensor
    files: dict[str, File]
    parity: Parity
    checkpoint: Checkpoint
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Check each name that will become a path or a key."""
        check_identity(self.name, self.version)
        for name in self.files:
            # A bundle is flat: no entry may point outside it.
            if not _NAME.fullmatch(name):
                raise ManifestError(f"the manifest lists a file {name!r}; a plain file name was expected")

    def to_json(self) -> str:
        """The same manifest always gives the same text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a manifest.

        Raises:
            ManifestError: The text is no JSON object, its format is not this program's, or a field is missing,
                unknown or of the wrong type.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise ManifestError(f"the manifest is not valid JSON ({error}); export the model again") from error
        except RecursionError as error:
            raise ManifestError("the manifest is nested too deeply; export the model again") from error
        if not isinstance(document, dict):
            raise ManifestError(f"the manifest holds a {type(document).__name__}; a JSON object was expected")
        _check_format(document.get("format"))
        manifest = _read(cls, document, "manifest")
        assert isinstance(manifest, cls)
        return manifest


def check_identity(name: str, version: str) -> None:
    """Check what a model is served under.

    Raises:
        ManifestError: The name or the version cannot be a part of a path or of a metric's label.
    """
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"model name {name!r}: up to 64 letters, digits, '.', '_', '-' were expected, no mark in front"
        )
    if not _VERSION.fullmatch(version):
        raise ManifestError(f"model version {version!r}: a whole number from 1 was expected, such as '1'")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _check_format(found: object) -> None:
    if not isinstance(found, int) or isinstance(found, bool):
        raise ManifestError(f"manifest format is {found!r}; a whole number was expected; export the model again")
    if found > FORMAT:
        raise ManifestError(
            f"manifest format is {found}, this program reads up to {FORMAT}; "
            "upgrade the server, or export the model again with this version"
        )
    if found < 1:
        raise ManifestError(f"manifest format is {found}; {FORMAT} was expected; export the model again")


def _read(kind: Any, value: Any, where: str) -> Any:
    """Turn decoded JSON into `kind` (a dataclass or a type made of JSON's own), naming the place of any mismatch."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is list:
        items = _expect(list, value, where)
        return [_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(items)]
    if origin is dict:
        entries = _expect(dict, value, where)
        return {key: _read(get_args(kind)[1], entry, f"{where}.{key}") for key, entry in entries.items()}
    if origin is types.UnionType:
        return _expect(get_args(kind), value, where)
    if kind is Any:
        return value
    return _read_float(value, where) if kind is float else _expect(kind, value, where)


def _read_dataclass(kind: type, value: Any, where: str) -> Any:
    entries = _expect(dict, value, where)
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    missing, unknown = sorted(fields.keys() - entries.keys()), sorted(entries.keys() - fields.keys())
    if missing or unknown:
        raise ManifestError(f"{where}: missing fields {missing}, unknown fields {unknown}; export the model again")
    return kind(**{name: _read(fields[name], entries[name], f"{where}.{name}") for name in fields})


def _read_float(value: Any, where: str) -> float:
    number = _expect((int, float), value, where)
    try:
        return float(number)
    except OverflowError as error:
        raise ManifestError(
            f"{where} has {len(str(number))} digits, too many for a number; export the model again"
        ) from error


def _expect(kind: type | tuple[type, ...], value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ManifestError(f"{where} is {value!r:.60}; {names} was expected; export the model again")
    return value
