"""What a manifest says survives the trip through its text, and what is no manifest is refused with its place named."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle import FORMAT, Manifest, ManifestError
from bundle.manifest import Checkpoint, File, Gpu, Graph, Normalisation, Parity, Plan, Profile, Tensor

shared_machine = settings(deadline=None, max_examples=60)

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=1 << 60)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
tensors = st.builds(
    Tensor,
    name=st.text(max_size=8),
    dtype=st.text(max_size=8),
    shape=st.lists(counts | st.text(max_size=8), max_size=4),
)
parities = st.builds(
    Parity,
    images=counts,
    flips=counts,
    max_difference=numbers,
    reference_accuracy=numbers,
    candidate_accuracy=numbers,
)
profiles = st.lists(st.integers(1, 1 << 20), min_size=3, max_size=3).map(
    lambda sizes: Profile(**dict(zip(("min", "opt", "max"), sorted(sizes), strict=True)))
)
plans = st.builds(
    Plan,
    product=st.sampled_from(["tensorrt", "tensorrt-rtx"]),
    version=st.text(max_size=8),
    gpu=st.none() | st.builds(Gpu, name=st.text(), compute_capability=st.text(), driver=st.text()),
    precision=st.sampled_from(["fp16", "fp32"]),
    graph_sha256=digests,
    profiles=st.lists(profiles, min_size=1, max_size=2),
    options=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    audit=st.dictionaries(st.text(max_size=8), st.dictionaries(st.text(max_size=8), counts, max_size=2), max_size=2),
    build_seconds=numbers,
    parity=st.none() | parities,
)


def described(files, graphs, plans, **fields) -> Manifest:
    """A manifest whose files include all that it describes."""
    listed = files | {name: File(bytes=1, sha256="0" * 64) for name in graphs.keys() | plans.keys()}
    return Manifest(files=listed, graphs=graphs, plans=plans, **fields)


manifests = st.builds(
    described,
    format=st.just(FORMAT),
    name=names,
    version=st.integers(1, 999_999_999).map(str),
    architecture=st.text(max_size=8),
    labels=st.lists(st.text(max_size=3), max_size=10),
    input=tensors,
    output=tensors,
    files=st.dictionaries(names, st.builds(File, bytes=counts, sha256=digests), max_size=3),
    graphs=st.dictionaries(names, st.builds(Graph, precision=st.text(max_size=8), parity=parities), max_size=2),
    plans=st.dictionaries(names, plans, max_size=2),
    normalisation=st.builds(Normalisation, mean=numbers, std=numbers),
    checkpoint=st.builds(
        Checkpoint, sha256=digests, trained=st.dictionaries(st.text(max_size=8), json_values, max_size=3)
    ),
    versions=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)


def changed(manifest: Manifest, place: str, value: Any) -> str:
    """The manifest's text with another value at `place`, such as "input/name"."""
    document = json.loads(manifest.to_json())
    *parents, last = place.split("/")
    entry = document
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    return json.dumps(document)


def without(manifest: Manifest, place: str) -> str:
    document = json.loads(manifest.to_json())
    *parents, last = place.split("/")
    entry = document
    for parent in parents:
        entry = entry[parent]
    del entry[last]
    return json.dumps(document)


@shared_machine
@given(manifests)
def test_every_manifest_reads_back_as_it_was_written(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@shared_machine
@given(manifests)
def test_the_text_of_a_manifest_depends_on_its_content_only(manifest):
    document = json.loads(manifest.to_json())
    shuffled = json.dumps(dict(reversed(document.items())))
    assert Manifest.from_json(shuffled).to_json() == manifest.to_json()
    assert copy.deepcopy(manifest).to_json() == manifest.to_json()


def test_bytes_are_read_like_text(manifest):
    assert Manifest.from_json(manifest.to_json().encode()) == manifest


@pytest.mark.parametrize("found", [FORMAT + 1, 999])
def test_a_newer_format_says_which_is_understood_and_what_to_do(manifest, found):
    with pytest.raises(ManifestError, match=rf"format is {found}, this program reads up to {FORMAT}; upgrade"):
        Manifest.from_json(changed(manifest, "format", found))


def test_a_newer_format_is_named_even_where_its_fields_are_strange():
    with pytest.raises(ManifestError, match="upgrade the server"):
        Manifest.from_json(json.dumps({"format": FORMAT + 1, "colour": "blue"}))


@pytest.mark.parametrize("found", [0, -1, "1", 1.0, True, None, [1]])
def test_a_format_that_is_no_whole_number_from_one_is_refused(manifest, found):
    with pytest.raises(ManifestError, match=r"format is .*expected; export the model again"):
        Manifest.from_json(changed(manifest, "format", found))


@pytest.mark.parametrize(
    "place",
    [
        "name",
        "version",
        "architecture",
        "labels",
        "input",
        "input/name",
        "input/shape",
        "output/dtype",
        "files",
        "files/model.onnx/bytes",
        "files/model.onnx/sha256",
        "graphs/model.onnx/parity/flips",
        "checkpoint/trained",
        "versions",
    ],
)
def test_a_missing_field_is_named_with_its_place(manifest, place):
    field = place.rpartition("/")[2]
    with pytest.raises(ManifestError, match=rf"missing fields \['{field}'\]") as caught:
        Manifest.from_json(without(manifest, place))
    where = "manifest/" + place.rpartition("/")[0]
    assert str(caught.value).startswith(where.rstrip("/").replace("/", "."))


def test_a_manifest_without_format_is_refused(manifest):
    with pytest.raises(ManifestError, match="format is None"):
        Manifest.from_json(without(manifest, "format"))


@pytest.mark.parametrize(
    "place",
    ["colour", "input/colour", "files/model.onnx/colour", "graphs/model.onnx/parity/colour", "plans/a.plan/gpu/colour"],
)
def test_an_unknown_field_is_named(manifest, place):
    with pytest.raises(ManifestError, match=r"unknown fields \['colour'\]"):
        Manifest.from_json(changed(manifest, place, "blue"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", 3),
        ("name", None),
        ("version", 1),
        ("labels", "0123456789"),
        ("labels/0", 0),
        ("input", ["pixels"]),
        ("input/shape", "batch"),
        ("input/shape/1", 1.5),
        ("input/shape/1", True),
        ("files", []),
        ("files/model.onnx", 1),
        ("files/model.onnx/bytes", "3"),
        ("files/model.onnx/bytes", 3.0),
        ("plans/a.plan/parity/images", True),
        ("graphs/model.onnx/parity/max_difference", "0"),
        ("graphs/model.onnx/parity/max_difference", None),
        ("checkpoint/trained", []),
        ("versions/torch", 2),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_place(manifest, place, value):
    document = json.loads(manifest.to_json())
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("/"))
    entry = document
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    where = place.replace("/0", "[0]").replace("/1", "[1]").replace("/", ".")
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(document))
    assert str(caught.value).startswith(f"manifest.{where} is {value!r}; ")
    assert "was expected; export the model again" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "/etc/passwd", "a/b", "a\\b", "", ".hidden", "-x", "a\0b", "a\n", "\u00e4", "x" * 65],
)
def test_no_file_name_leads_out_of_the_bundle(manifest, name):
    entry = {"bytes": 3, "sha256": "0" * 64}
    with pytest.raises(ManifestError, match="a plain file name was expected"):
        Manifest.from_json(changed(manifest, "files", {name: entry}))


@pytest.mark.parametrize("name", ["", "../x", "a b", "a\n", "x" * 65])
def test_a_model_name_that_could_not_be_a_path_or_a_key_is_refused(manifest, name):
    with pytest.raises(ManifestError, match="up to 64 letters"):
        Manifest.from_json(changed(manifest, "name", name))


@pytest.mark.parametrize("version", ["", "0", "01", "-1", "1.0", "one", "1\n", "1234567890", "\u0661"])
def test_a_version_is_a_whole_number_from_one(manifest, version):
    with pytest.raises(ManifestError, match="a whole number from 1 was expected"):
        Manifest.from_json(changed(manifest, "version", version))


@pytest.mark.parametrize(
    "entry",
    [
        {"bytes": -1, "sha256": "0" * 64},
        {"bytes": 3, "sha256": "0" * 63},
        {"bytes": 3, "sha256": "A" * 64},
        {"bytes": 3, "sha256": "0" * 64 + "\n"},
    ],
)
def test_what_cannot_be_a_size_and_a_digest_is_refused(manifest, entry):
    with pytest.raises(ManifestError, match="a digest was expected"):
        Manifest.from_json(changed(manifest, "files/model.onnx", entry))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"\x00", b'{"format": 1,}', b"9" * 5000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ManifestError, match=r"not valid JSON .*export the model again"):
        Manifest.from_json(text)


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("3", "int"), ("null", "NoneType"), ('"x"', "str")])
def test_json_that_is_no_object_is_refused(text, kind):
    with pytest.raises(ManifestError, match=f"holds a {kind}; a JSON object was expected"):
        Manifest.from_json(text)


@pytest.mark.parametrize("depth", [900, 990, 1000, 100_000])
@pytest.mark.parametrize("place", ["name", "labels", "checkpoint/trained"])
def test_deep_nesting_is_refused_without_harm(manifest, place, depth):
    text = changed(manifest, place, "HERE").replace('"HERE"', "[" * depth + "]" * depth)
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


@shared_machine
@given(st.binary(max_size=200))
def test_no_bytes_cause_anything_but_a_refusal(content):
    with pytest.raises(ManifestError):
        Manifest.from_json(content)


@shared_machine
@given(document=json_values)
def test_no_json_causes_anything_but_a_refusal(document):
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps(document))


@settings(deadline=None, max_examples=150)
@given(
    place=st.sampled_from(
        [
            "format",
            "name",
            "version",
            "labels",
            "input",
            "files",
            "files/model.onnx",
            "parity",
            "graphs",
            "plans/a.plan/gpu",
            "plans/a.plan/profiles",
        ]
    ),
    value=json_values,
)
def test_any_value_in_any_place_is_either_kept_or_refused(manifest, place, value):
    text = changed(manifest, place, value)
    try:
        read = Manifest.from_json(text)
    except ManifestError:
        return
    assert json.loads(read.to_json()) == json.loads(text)


def test_a_number_beyond_floating_point_is_refused(manifest):
    with pytest.raises(ManifestError, match=r"parity\.max_difference"):
        Manifest.from_json(changed(manifest, "graphs/model.onnx/parity/max_difference", 10**400))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(manifest, value):
    with pytest.raises(ManifestError, match=r"not valid JSON|parity.max_difference"):
        Manifest.from_json(changed(manifest, "graphs/model.onnx/parity/max_difference", value))
