"""From checkpoint to bundle: what is published, and that nothing is where anything is wrong."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

from bundle import Bundle
from export import graph, to_onnx, tolerances
from export.errors import ParityError
from export.gate import in_batches
from export.tolerances import DEFAULTS
from serve.engines.onnx_runtime import open_onnx_runtime
from train import data
from train.checkpoint import load, save
from train.inference import predict
from train.models import Recogniser

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def export(monkeypatch, capsys) -> Callable[..., Ended]:
    """`python -m export.to_onnx ARGUMENTS`, without the seconds that a new process takes to import PyTorch."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["to_onnx", *map(str, arguments)])
        status = to_onnx.main()
        return Ended(status, *capsys.readouterr())

    return run


def content_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden entries included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def older_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle at a place of its own."""
    copy = tmp_path / "models" / "bundle"
    copy.mkdir(parents=True)
    for name, content in content_of(bundle).items():
        (copy / name).write_bytes(content)
    return copy


# What is published


def test_the_bundle_holds_card_graphs_reports_and_manifest(bundle):
    listed = {"README.md", "model.onnx", "model.fp16.onnx", "parity.json", "parity.html", "probe.bin"}
    assert content_of(bundle).keys() == listed | {"manifest.json"}
    assert Bundle.open(bundle).manifest.files.keys() == listed


def test_the_manifest_says_what_the_graph_says(bundle):
    manifest = Bundle.open(bundle).manifest
    model = onnx.load(bundle / "model.onnx")
    graph.check(model)
    for told, found in ((manifest.input, model.graph.input[0]), (manifest.output, model.graph.output[0])):
        kind = found.type.tensor_type
        assert told.name == found.name
        assert np.dtype(told.dtype) == onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        assert told.shape == [each.dim_param or each.dim_value for each in kind.shape.dim]
    assert manifest.labels == [str(digit) for digit in range(10)]


def test_the_manifest_says_where_the_weights_came_from(bundle, checkpoint):
    manifest = Bundle.open(bundle).manifest
    trained = load(checkpoint)
    assert manifest.checkpoint.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert manifest.checkpoint.trained == {
        field.name: getattr(trained, field.name) for field in dataclasses.fields(trained) if field.name != "weights"
    }
    assert (manifest.name, manifest.version, manifest.architecture) == ("compact", "1", "compact")


def test_the_serving_engine_agrees_with_pytorch_on_the_whole_test_set(bundle, checkpoint):
    test = data.load("digits8x8").test
    expected = predict(load(checkpoint).recogniser(), test)
    with open_onnx_runtime(Bundle.open(bundle).read("model.onnx")) as engine:
        found = engine.run(test.pixels.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (
        float(np.mean(found.argmax(axis=1) == test.labels.numpy()))
        == Bundle.open(bundle).manifest.graphs["model.onnx"].parity.candidate_accuracy
    )


def test_the_parity_report_covers_the_whole_test_set_and_has_the_manifests_figures(bundle):
    report = json.loads((bundle / "parity.json").read_bytes())
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == ["onnx fp32", "onnx fp16", "torch fp16", "range fp16"]
    for graph_ in Bundle.open(bundle).manifest.graphs.values():
        short = dataclasses.asdict(graph_.parity)
        measured = checks[f"onnx {graph_.precision}"]["comparison"]
        assert measured["images"] == len(data.load("digits8x8").test) == report["images"]
        assert {**measured, "flips": len(measured["flips"])}.items() >= short.items()
    assert {name: tolerances.Tolerances(**bounds) for name, bounds in report["tolerances"].items()} == DEFAULTS


def test_no_path_of_this_machine_is_published(bundle, checkpoint):
    for name, content in content_of(bundle).items():
        for place in (ROOT, Path.home(), checkpoint.parents[2]):
            assert str(place).encode() not in content, f"{name} names {place}"


def test_exporting_again_gives_the_same_bytes_under_the_name_and_at_the_place_asked_for(
    export, bundle, checkpoint, tmp_path
):
    ended = export(checkpoint, "--output", tmp_path / "again")
    assert ended.status == 0
    assert f"published {tmp_path / 'again'}" in ended.out
    assert content_of(tmp_path / "again") == content_of(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_every_image_is_classified_once_and_in_order_whatever_the_batch_sizes():
    class Recorder:
        name = device = precision = "recorder"

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def run(self, pixels: np.ndarray) -> np.ndarray:
            self.sizes.append(len(pixels))
            return np.repeat(pixels[:, 0, 0, :1].astype(np.float32), 10, axis=1)

    pixels = np.zeros((1000, 1, 28, 28), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(1000) % 251
    recorder = Recorder()
    found = in_batches(recorder.run, pixels, [1, 7, 16, 64, 256])
    np.testing.assert_array_equal(found[:, 0], np.arange(1000) % 251)
    assert sum(recorder.sizes) == 1000
    assert {1, 7, 16, 64, 256} <= set(recorder.sizes)


def test_a_committee_is_published_like_a_network(export, checkpoint, tmp_path):
    trained = load(checkpoint)
    seats = [{"architecture": trained.architecture, "arguments": trained.arguments}] * 2
    weights = {f"0.members.{seat}.{name}": each for seat in (0, 1) for name, each in trained.weights.items()}
    weights["0.members.1.21.weight"] = weights["0.members.1.21.weight"] * 0.5  # of another opinion
    path = tmp_path / "best.pt"
    save(path, dataclasses.replace(trained, architecture="committee", arguments={"members": seats}, weights=weights))
    assert export(path).status == 0
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.name, manifest.architecture) == ("committee", "committee")
    assert manifest.checkpoint.trained["arguments"] == {"members": seats}
    assert [graph_.parity.flips for graph_ in manifest.graphs.values()] == [0, 0]


def test_an_empty_working_folder_becomes_the_bundle(export, checkpoint, bundle, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export(checkpoint, "--output", ".").status == 0
    assert content_of(tmp_path / "here") == content_of(bundle)


# Bad checkpoints: each function makes one in a folder, from a good one.


def missing(good: Path, folder: Path) -> Path:
    return folder / "nope.pt"


def directory(good: Path, folder: Path) -> Path:
    return folder


def written(folder: Path, content: bytes) -> Path:
    path = folder / "bad.pt"
    path.write_bytes(content)
    return path


def empty(good: Path, folder: Path) -> Path:
    return written(folder, b"")


def text(good: Path, folder: Path) -> Path:
    return written(folder, b"these are not the weights you are looking for\n")


def truncated(good: Path, folder: Path) -> Path:
    return written(folder, good.read_bytes()[:-1000])


def damaged(good: Path, folder: Path) -> Path:
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return written(folder, bytes(content))


def onnx_graph(good: Path, folder: Path) -> Path:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [value]))
    return written(folder, model.SerializeToString())


def other_zip(good: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bad.pt", "w") as archive:
        archive.writestr("letter.txt", "dear reader")
    return folder / "bad.pt"


def pickled_module(good: Path, folder: Path) -> Path:
    torch.save(load(good).network(), folder / "bad.pt")
    return folder / "bad.pt"


def bare_weights(good: Path, folder: Path) -> Path:
    torch.save(load(good).weights, folder / "bad.pt")
    return folder / "bad.pt"


def changed(good: Path, folder: Path, **fields: object) -> Path:
    save(folder / "bad.pt", dataclasses.replace(load(good), **fields))
    return folder / "bad.pt"


def unknown_architecture(good: Path, folder: Path) -> Path:
    return changed(good, folder, architecture="resnet50", arguments={})


def unknown_argument(good: Path, folder: Path) -> Path:
    return changed(good, folder, arguments={"dropuot": 0.5})


def other_weights(good: Path, folder: Path) -> Path:
    return changed(good, folder, architecture="one_by_one", arguments={})


def newer_format(good: Path, folder: Path) -> Path:
    return changed(good, folder, format_version=99)


def unknown_data(good: Path, folder: Path) -> Path:
    return changed(good, folder, data={"name": "fashion", "sha256": "0" * 64})


BAD_CHECKPOINTS = {
    missing: r"nope\.pt does not exist; write one with python -m train, or check the path",
    directory: r"cannot be read: Is a directory; expected a checkpoint file",
    empty: r"bad\.pt is empty; train again or fetch the file again",
    text: r"bad\.pt is not a checkpoint: it begins with b'thes', expected .* Give the best\.pt",
    truncated: r"bad\.pt is truncated: \d+ bytes .* Train again or fetch the file again",
    damaged: r"bad\.pt is damaged: the checksum of .* is wrong\. Train again",
    onnx_graph: r"bad\.pt is not a checkpoint: it begins with .* Give the best\.pt",
    other_zip: r"bad\.pt is a zip file but not a readable checkpoint .* Train again or fetch the file again",
    pickled_module: r"bad\.pt holds Python objects, which could run code when loaded, and is refused",
    bare_weights: r"bad\.pt lacks architecture, .* Give the best\.pt",
    unknown_architecture: r"bad\.pt: unknown architecture 'resnet50': did you mean .*\? Known: champion, ",
    unknown_argument: r"bad\.pt: unknown argument of compact 'dropuot': did you mean 'dropout'\?",
    other_weights: r"bad\.pt: the weights do not fit one_by_one: .* Train again",
    newer_format: r"bad\.pt has checkpoint format 99, newer than the 1 understood here; update this program",
    unknown_data: r"unknown data set 'fashion': did you mean 'mnist'\? Known: digits8x8, mnist",
}


@pytest.mark.parametrize(("make", "message"), BAD_CHECKPOINTS.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_bad_checkpoint_gets_one_clear_line_and_publishes_nothing(export, checkpoint, tmp_path, make, message):
    folder = tmp_path / "runs"
    folder.mkdir()
    path = make(checkpoint, folder)
    before = content_of(tmp_path)
    ended = export(path, "--output", tmp_path / "bundle")
    assert ended.status == 1
    [line] = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.err.splitlines()[-1] == line
    assert content_of(tmp_path) == before
    assert not (tmp_path / "bundle").exists()
    assert re.search(message, line), line


def python(*words):
    """A Python process in the repository, run to its end."""
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_the_command_ends_with_one_for_a_bad_checkpoint_and_shows_no_traceback(tmp_path):
    done = python("-m", "export.to_onnx", tmp_path / "nope.pt")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: {tmp_path / 'nope.pt'} does not exist; write one with python -m train, or check the path\n"
    )
    assert not list(tmp_path.iterdir())


def damaged_index(good: Path, folder: Path) -> Path:
    content = bytearray(good.read_bytes())
    content[content.rindex(b"data.pkl")] = 0xFF
    return written(folder, bytes(content))


def nameless_data(good: Path, folder: Path) -> Path:
    return changed(good, folder, data={})


def tensor_in_the_metadata(good: Path, folder: Path) -> Path:
    return changed(good, folder, recipe={"epochs": torch.zeros(1)})


def integer_weights(good: Path, folder: Path) -> Path:
    return changed(good, folder, weights={name: each.to(torch.int8) for name, each in load(good).weights.items()})


@pytest.mark.parametrize("make", [damaged_index, nameless_data, tensor_in_the_metadata, integer_weights])
def test_a_checkpoint_that_only_looks_good_is_refused(export, checkpoint, tmp_path, make):
    ended = export(make(checkpoint, tmp_path), "--output", tmp_path / "bundle")
    assert ended.status == 1
    assert not (tmp_path / "bundle").exists()


# Bad targets and options


def test_a_target_that_is_no_bundle_is_refused_before_any_work(export, checkpoint, tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    for target, message in ((tmp_path / "thesis", "is a file"), (tmp_path, "holds files that are no bundle")):
        ended = export(checkpoint, "--output", target)
        assert (ended.status, ended.out) == (1, "")
        assert message in ended.err
        assert "choose another --output" in ended.err
    assert content_of(tmp_path) == {"thesis": b"years of work"}


def test_a_name_that_cannot_be_served_publishes_nothing(export, checkpoint, tmp_path):
    ended = export(checkpoint, "--output", tmp_path / "bundle", "--name", "../x")
    assert ended.status == 1
    assert "error: model name '../x': up to 64 letters" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_version_that_cannot_be_served_is_refused_before_any_work(export, checkpoint, tmp_path):
    ended = export(checkpoint, "--output", tmp_path / "bundle", "--version", "0")
    assert ended.status == 1
    assert "a whole number from 1 was expected" in ended.err
    assert not list(tmp_path.iterdir())
    assert "convert" not in ended.out


# Disagreement: a graph that is well formed but says something else.


class Unnormalised(Recogniser):
    """Forgets to normalise."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(pixels.to(torch.float32) / 255), dim=1)


class Swapped(Recogniser):
    """Takes threes for eights and eights for threes."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.network(((pixels.to(torch.float32) / 255) - 0.1307) / 0.3081)
        return torch.softmax(logits[:, [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]], dim=1)


@pytest.fixture(params=[Unnormalised, Swapped])
def wrong_conversion(request, monkeypatch) -> None:
    convert = graph.convert
    monkeypatch.setattr(graph, "convert", lambda right: convert(request.param(right.network).eval()))


@pytest.mark.usefixtures("wrong_conversion")
def test_an_engine_that_disagrees_is_not_published_and_the_older_bundle_stays(checkpoint, bundle, tmp_path, capsys):
    older = older_bundle(bundle, tmp_path)
    before = content_of(tmp_path)
    message = r"nothing is published: onnx fp32: .*, at most 0\.001 is tolerated; onnx fp32: accuracy falls"
    with pytest.raises(ParityError, match=message):
        to_onnx.export(to_onnx.Options(checkpoint=checkpoint, output=older))
    printed = capsys.readouterr().out
    assert "onnx fp32    REFUSED" in printed
    assert "published" not in printed
    page = older.with_name("bundle-refused.html")
    assert "Refused." in page.read_text("utf-8")
    page.unlink()
    assert content_of(tmp_path) == before


def test_disagreement_ends_the_command_with_one_and_publishes_nothing(export, checkpoint, tmp_path):
    weights = {
        name: each * float("nan") if each.is_floating_point() else each
        for name, each in load(checkpoint).weights.items()
    }
    ended = export(changed(checkpoint, tmp_path, weights=weights, metrics={}), "--output", tmp_path / "bundle")
    assert ended.status == 1
    assert "error: nothing is published: onnx fp32: " in ended.err
    assert "360 images have probabilities that are NaN or infinite; none may" in ended.err
    assert not (tmp_path / "bundle").exists()


def test_a_refusal_says_why_wherever_its_page_is_to_lie(bundle, tmp_path):
    report = json.loads((bundle / "parity.json").read_bytes())
    report["checks"][0]["findings"] = ["all is wrong"]
    page = tmp_path / "new" / "bundle-refused.html"
    with pytest.raises(ParityError, match=r"onnx fp32: all is wrong; see .*/new/bundle-refused\.html"):
        to_onnx.require_passed(report, page)
    assert "all is wrong" in page.read_text("utf-8")
    with pytest.raises(ParityError, match=r"onnx fp32: all is wrong; there is no report: .*/new \("):
        to_onnx.require_passed(report, page.parent)


def test_a_network_that_is_worse_than_its_checkpoint_says_is_not_published(export, checkpoint, tmp_path):
    trained = load(checkpoint)
    weights = {name: each.clone() for name, each in trained.weights.items()}
    weights["21.weight"][[3, 8]] = weights["21.weight"][[8, 3]]  # threes and eights have changed places
    ended = export(changed(checkpoint, tmp_path, weights=weights), "--output", tmp_path / "bundle")
    assert ended.status == 1
    recorded = f"the checkpoint records an accuracy of {trained.metrics['test_accuracy']:.2%} on the test images"
    assert f"error: nothing is published: {recorded}, but its network has " in ended.err
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_without_a_test_accuracy_is_published(export, checkpoint, tmp_path):
    metrics = {"validation_loss": 0.5}
    assert export(changed(checkpoint, tmp_path, metrics=metrics), "--output", tmp_path / "bundle").status == 0


# A real failure in the middle of writing

WITH_LITTLE_ROOM = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
runpy.run_module("export.to_onnx", run_name="__main__", alter_sys=True)
"""


def test_a_disk_that_takes_no_more_ends_the_command_and_leaves_the_older_bundle(checkpoint, bundle, tmp_path):
    older = older_bundle(bundle, tmp_path)
    before = content_of(tmp_path)
    done = python("-c", WITH_LITTLE_ROOM, checkpoint, "--output", older)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"error: {older}: File too large; nothing was published; free some space or choose another --output"
    assert "Traceback" not in done.stderr
    assert content_of(tmp_path) == before
