"""Where a configuration comes from: flags, else the environment, else a file, else the defaults.

All three have the same keys. A flag is `--queue-images 512`, the variable is `DIGITS_SERVE_QUEUE_IMAGES=512`, the file
is TOML, `queue_images = 512`, named by `--config FILE` or `DIGITS_SERVE_CONFIG`. The variables of other projects in
`FOREIGN` count as well, after ours.
"""

import argparse
import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from serve.config import ServeConfig
from serve.errors import StartupError

PREFIX = "DIGITS_SERVE_"

FOREIGN = {"OTEL_EXPORTER_OTLP_ENDPOINT": "otel_endpoint"}

_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What the command line asks for."""

    serve: tyro.conf.OmitArgPrefixes[ServeConfig]

    config: Path | None = None
    """TOML file with settings, by the names of the flags."""

    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Check the configuration and every bundle, with a line for each, and exit."""

    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the configuration as a TOML file, wherever each value comes from, and exit."""


def parse(arguments: Sequence[str], environment: Mapping[str, str], description: str | None = None) -> Command:
    """Reads the configuration.

    Raises:
        StartupError: The file cannot be read, or a key is unknown, or a value is of the wrong type or out of range.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path, default=environment.get(PREFIX + "CONFIG"))
    file = first.parse_known_args(arguments)[0].config
    values = (_from_file(Path(file)) if file else {}) | _from_environment(environment)
    default = Command(serve=_unchecked(values), config=Path(file) if file else None)
    return tyro.cli(
        Command,
        prog="python -m serve",
        description=description,
        args=list(arguments),
        default=default,
    )


def _unchecked(values: Mapping[str, Any]) -> ServeConfig:
    """What flags are still to be put in: fields are checked against each other when all of them are known."""
    config = object.__new__(ServeConfig)
    vars(config).update({field.name: field.default for field in dataclasses.fields(ServeConfig)}, **values)
    return config


def from_toml(text: str) -> ServeConfig:
    """The configuration that `to_toml` has written."""
    return ServeConfig(**{name: _typed(name, value, name) for name, value in tomllib.loads(text).items()})


def to_toml(config: ServeConfig) -> str:
    """A configuration as a file; what has no value is a comment."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain = str(value) if isinstance(value, Path) else value
        text = json.dumps(plain, ensure_ascii=False)  # TOML writes these values as JSON does
        lines.append(f"# {field.name} has no value of its own" if value is None else f"{field.name} = {text}")
    return "\n".join(lines) + "\n"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StartupError(f"--config {path}: {error.strerror}; a TOML file was expected") from error
    except ValueError as error:
        raise StartupError(f"--config {path} is not TOML: {error}") from error
    return {_known(name, f"{path}: "): _typed(name, value, f"{path}: {name}") for name, value in document.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: environment[variable]
        for variable, name in FOREIGN.items()
        if environment.get(variable)  # OpenTelemetry has it that an empty one counts as none
    }
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != PREFIX + "CONFIG":
            name = _known(variable.removeprefix(PREFIX).lower(), f"{variable}: ")
            # Text stays text, also where it looks like a number, as in `versions`.
            is_text = str in _kinds(get_type_hints(ServeConfig)[name])
            values[name] = _typed(name, text if is_text else _value(text), variable)
    return values


def _value(text: str) -> object:
    """A number or a truth value where the text is one, as TOML writes them; else the text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, int | float) else text


def _known(name: str, where: str) -> str:
    names = [field.name for field in dataclasses.fields(ServeConfig)]
    if name not in names:
        [nearest] = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise StartupError(f"{where}unknown setting {name!r:.80}: did you mean {nearest!r}? Known: {', '.join(names)}")
    return name


def _typed(name: str, value: object, where: str) -> Any:
    """The value, if it is of the field's type; a path may be given as text, and a whole number where any may stand."""
    annotation = get_type_hints(ServeConfig)[name]
    if get_origin(annotation) is Literal and value not in get_args(annotation):
        raise StartupError(f"{where} is {value!r:.80}; one of {', '.join(get_args(annotation))} was expected")
    kinds = _kinds(annotation)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(_NAMES[kind] for kind in kinds)
        raise StartupError(f"{where} is {value!r:.80}; {expected} was expected")
    return value


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The plain types that a field may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Literal:
        return (str,)
    if origin is types.UnionType:
        return tuple(kind for part in get_args(annotation) if part is not types.NoneType for kind in _kinds(part))
    return (annotation,)
