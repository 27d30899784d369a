"""The JSON Schema of a manifest, for programs in other languages: made from the dataclasses that read manifests here.

`python -m tests.bundle.manifest_schema` writes bundle/manifest.schema.json, which a test keeps up to date.
"""

import dataclasses
import inspect
import json
import types
from pathlib import Path
from typing import Any, get_args, get_origin

from bundle import FORMAT, Manifest, manifest
from bundle.manifest import Checkpoint, File, Plan, Profile

PATH = Path(__file__).resolve().parents[2] / "bundle" / "manifest.schema.json"

JSON_TYPES = {str: "string", int: "integer", float: "number"}


def whole(pattern: Any) -> str:
    """A pattern for the whole text. In Python `$` would let a line break pass."""
    return f"^{pattern.pattern}$(?!\\n)"


SHA256 = {"pattern": whole(manifest._SHA256)}

# What the dataclasses check in code.
CHECKED: dict[tuple[type, str], dict[str, Any]] = {
    (File, "bytes"): {"minimum": 0},
    (File, "sha256"): SHA256,
    (Profile, "min"): {"minimum": 1},
    (Profile, "opt"): {"minimum": 1},
    (Profile, "max"): {"minimum": 1},
    (Manifest, "format"): {"const": FORMAT},
    (Manifest, "name"): {"pattern": whole(manifest._NAME)},
    (Manifest, "version"): {"pattern": whole(manifest._VERSION)},
    (Manifest, "files"): {"propertyNames": {"pattern": whole(manifest._NAME)}},
}
# Of these nothing depends on the form in this project's reader, but its writer always gives a digest.
CHECKED |= {(Plan, "graph_sha256"): SHA256, (Checkpoint, "sha256"): SHA256}


def generate() -> dict[str, Any]:
    """The schema of a whole manifest."""
    definitions: dict[str, Any] = {}
    top = _object(Manifest, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "manifest.json of a bundle of digits",
        "$comment": "Not expressed here: each graph and plan is one of the files, and min <= opt <= max in a profile.",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def text() -> str:
    """The content of the file."""
    return json.dumps(generate(), indent=2) + "\n"


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {
        each.name: {**_of(each.type, definitions), **CHECKED.get((kind, each.name), {})}
        for each in dataclasses.fields(kind)
    }
    return {
        "description": " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()),
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        definitions.setdefault(kind.__name__, {})
        definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if kind is Any:
        return {}
    if kind is types.NoneType:
        return {"type": "null"}
    if get_origin(kind) is list:
        return {"type": "array", "items": _of(get_args(kind)[0], definitions)}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _of(get_args(kind)[1], definitions)}
    if get_origin(kind) is types.UnionType:
        return {"anyOf": [_of(each, definitions) for each in get_args(kind)]}
    return {"type": JSON_TYPES[kind]}


if __name__ == "__main__":
    PATH.write_text(text())
