"""The JSON Schema of the manifest says what this project's own reader says."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bundle import FORMAT, Manifest, ManifestError
from tests.bundle import manifest_schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """Of the file that is checked in."""
    return Draft202012Validator(json.loads(manifest_schema.PATH.read_text()))


def test_the_file_is_up_to_date():
    assert manifest_schema.PATH.read_text() == manifest_schema.text(), (
        "run python -m tests.bundle.manifest_schema and look at what has changed: a manifest of another form is a "
        "format of another number"
    )


def test_it_is_a_schema(validator):
    Draft202012Validator.check_schema(validator.schema)


@pytest.mark.parametrize("name", ["champion", "compact"])
def test_the_bundles_that_come_with_the_repository_fit(validator, name):
    validator.validate(json.loads((ROOT / "pretrained" / name / "manifest.json").read_bytes()))


def test_a_bundle_of_today_fits(validator, bundle):
    validator.validate(json.loads((bundle / "manifest.json").read_bytes()))


def test_a_manifest_with_a_plan_fits_with_and_without_a_gpu(validator, manifest):
    document = json.loads(manifest.to_json())
    validator.validate(document)
    document["plans"]["a.plan"] |= {"gpu": None, "parity": None}
    validator.validate(document)


def changed(manifest: Manifest, place: str, value: Any) -> Any:
    """The manifest's document with another value at `place`, such as "input/name"."""
    document = json.loads(manifest.to_json())
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("/"))
    entry = document
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    return document


BROKEN = [
    ("format", FORMAT + 1),
    ("format", "2"),
    ("format", None),
    ("name", "../x"),
    ("name", "compact\n"),
    ("name", "x" * 65),
    ("version", 1),
    ("version", "0"),
    ("version", "1\n"),
    ("labels", "0123456789"),
    ("labels/0", 0),
    ("input/shape/1", 1.5),
    ("input/shape/1", True),
    ("input/colour", "blue"),
    ("normalisation/mean", "0.1"),
    ("files", []),
    ("files/..", {"bytes": 3, "sha256": "0" * 64}),
    ("files/model.onnx/bytes", -1),
    ("files/model.onnx/sha256", "0" * 63),
    ("files/model.onnx/sha256", "A" * 64),
    ("files/model.onnx/sha256", "0" * 64 + "\n"),
    ("graphs/model.onnx/parity", None),
    ("graphs/model.onnx/parity/flips", 0.5),
    ("plans/a.plan/gpu", "NVIDIA H200"),
    ("plans/a.plan/profiles/0/min", 0),
    ("plans/a.plan/profiles/0/opt", None),
    ("plans/a.plan/audit", {"convolutions": {"HALF": "5"}}),
    ("plans/a.plan/parity/images", True),
    ("checkpoint/trained", []),
    ("versions/torch", 2),
    ("colour", "blue"),
]


@pytest.mark.parametrize(("place", "value"), BROKEN)
def test_what_the_reader_refuses_does_not_fit(validator, manifest, place, value):
    document = changed(manifest, place, value)
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(document))
    assert not validator.is_valid(document)


def places(entry: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every entry of every object, except in those that hold what they like."""
    if isinstance(entry, dict) and path[-1:] not in {("trained",), ("options",), ("audit",), ("versions",)}:
        return [place for key in entry for place in ((*path, key), *places(entry[key], (*path, key)))]
    if isinstance(entry, list):
        return [place for index, item in enumerate(entry) for place in places(item, (*path, index))]
    return []


def test_no_field_can_be_left_out(validator, manifest):
    document = json.loads(manifest.to_json())
    fields = [place for place in places(document) if place[-1] not in ("model.onnx", "a.plan")]
    assert len(fields) > 40
    for *parents, last in fields:
        without = copy.deepcopy(document)
        entry = without
        for parent in parents:
            entry = entry[parent]
        del entry[last]
        assert not validator.is_valid(without), (*parents, last)
        with pytest.raises(ManifestError):
            Manifest.from_json(json.dumps(without))
