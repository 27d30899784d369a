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

FORMAT = 2

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
class Profile:
    """The batch sizes that a plan accepts, and the one it is tuned for."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        """Refuse sizes that are out of order."""
        if not 1 <= self.min <= self.opt <= self.max:
            raise ManifestError(f"batch sizes are {self}; 1 ≤ MIN ≤ OPT ≤ MAX was expected")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the parity gate measured, in short; `parity.json` has it whole. Accuracies are shares from 0 to 1."""

    images: int
    flips: int
    max_difference: float
    reference_accuracy: float
    candidate_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One ONNX graph: the type of its arithmetic, and how it answered."""

    precision: str
    parity: Parity


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as its driver describes it. `driver` is the newest CUDA version that the driver supports."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One TensorRT plan: code for one product, version and kind of GPU.

    Attributes:
        product: `tensorrt` or `tensorrt-rtx`.
        version: Version of the product.
        gpu: Where it was built; None without a GPU, which leaves the choice of kernels to the machine that loads it.
        precision: Type of its arithmetic, `fp16` or `fp32`.
        graph_sha256: Digest of the ONNX graph that it was built from.
        profiles: The batch sizes it accepts.
        options: How it was built, by the names of the command's options.
        audit: Number of heavy layers by kind and type.
        build_seconds: How long that took.
        parity: How it answered on that GPU; None where it could not be run.
    """

    product: str
    version: str
    gpu: Gpu | None
    precision: str
    graph_sha256: str
    profiles: list[Profile]
    options: dict[str, Any]
    audit: dict[str, dict[str, int]]
    build_seconds: float
    parity: Parity | None

    def __post_init__(self) -> None:
        """Refuse a plan that would take no batch."""
        if not self.profiles:
            raise ManifestError("a plan has no profiles; at least one was expected; build it again")

    @property
    def file_name(self) -> str:
        """The plan's name in the bundle: its fingerprint."""
        gpu = f"sm{self.gpu.compute_capability}-{self.gpu.name}" if self.gpu else "any"
        plain = re.sub(r"[^a-z0-9.]+", "-", f"{self.product}-{self.version}-{self.precision}-{gpu}".lower())
        return f"{plain[:58].strip('-')}.plan"


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What the graph does to a pixel, for people: (pixel / 255 - mean) / std."""

    mean: float
    std: float


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
    normalisation: Normalisation
    files: dict[str, File]
    graphs: dict[str, Graph]
    plans: dict[str, Plan]
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
        for name in sorted(manifest.graphs.keys() | manifest.plans.keys()):
            if name not in manifest.files:
                raise ManifestError(f"the manifest describes {name!r}, which is not among its files")
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
    if origin is types.UnionType and types.NoneType in get_args(kind):
        [rest] = set(get_args(kind)) - {types.NoneType}
        return None if value is None else _read(rest, value, where)
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
    values = {name: _read(fields[name], entries[name], f"{where}.{name}") for name in fields}
    try:
        return kind(**values)
    except ManifestError as error:
        raise ManifestError(str(error) if kind is Manifest else f"{where}: {error}") from error


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
