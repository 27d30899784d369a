"""The command that re-checks a bundle: what it says of a good one, and each thing that can be wrong with one."""

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from bundle import Bundle, publish
from bundle.manifest import Gpu, Manifest, Plan, Profile
from export import verify
from serve.engines import products
from serve.engines.gpu import find_gpu
from serve.engines.onnx_runtime import open_onnx_runtime
from serve.errors import StartupError

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
without_gpu = pytest.mark.skipif(not isinstance(find_gpu(), str), reason="there is a GPU")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    lines: list[str]
    err: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Ended]:
    """`python -m export.verify ARGUMENTS`."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["verify", *map(str, arguments)])
        status = verify.main()
        out, err = capsys.readouterr()
        return Ended(status, out.splitlines(), err)

    return run


@pytest.fixture
def own(bundle, tmp_path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


def plan_of(manifest: Manifest, **changes: Any) -> Plan:
    """The description of a plan from the bundle's FP16 graph."""
    plan = Plan(
        product="tensorrt",
        version="11.4.0.106",
        gpu=Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0"),
        precision="fp16",
        graph_sha256=manifest.files["model.fp16.onnx"].sha256,
        profiles=[Profile(min=1, opt=4, max=8)],
        options={},
        audit={},
        build_seconds=1.0,
        parity=None,
    )
    return dataclasses.replace(plan, **changes)


def republish(path: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """Publish a bundle again with other files, and a manifest changed to fit or not to fit them."""
    bundle = Bundle.open(path)
    content = {name: bundle.read(name) for name in bundle.manifest.files} | (files or {})
    return publish(path, dataclasses.replace(bundle.manifest, files={}, **changes), content).manifest


# Without data


def test_a_bundle_as_it_was_published_passes_with_a_line_for_each_of_its_files(run, bundle):
    status, lines, err = run(bundle)
    assert (status, err) == (0, "")
    assert lines[0] == "passed   manifest.json: format 2, compact version 1"
    size = (bundle / "model.fp16.onnx").stat().st_size
    assert f"passed   model.fp16.onnx: {size:,} bytes with the digest listed, graph in FP16" in lines
    assert {line.split()[1].rstrip(":") for line in lines} == {path.name for path in bundle.iterdir()}


def test_every_damaged_and_missing_file_is_told_in_one_run(run, own):
    content = (own / "model.onnx").read_bytes()
    (own / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (own / "parity.html").unlink()
    status, lines, err = run(own)
    assert status == 1
    assert [line.split(":")[0] for line in lines if line.startswith("REFUSED")] == [
        "REFUSED  model.onnx",
        "REFUSED  parity.html",
    ]
    assert err.startswith(f"error: {own} is not what it says: model.onnx: ")
    assert len(err.splitlines()) == 1
    assert "the file was changed after it was published" in err
    assert "No such file or directory" in err


def test_a_manifest_that_cannot_be_read_is_refused(run, own):
    document = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps(document | {"colour": "blue"}))
    status, lines, err = run(own)
    assert (status, lines) == (1, [])
    assert "unknown fields ['colour']" in err


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_a_manifest_is_refused(run, tmp_path, there):
    folder = tmp_path / "folder"
    if there:
        folder.mkdir()
    status, lines, err = run(folder)
    assert (status, lines) == (1, [])
    assert err.startswith("error: ")
    assert "python -m export.to_onnx best.pt" in err


def test_a_model_that_takes_something_else_than_serving_gives_is_refused(run, own):
    manifest = Bundle.open(own).manifest
    republish(own, input=dataclasses.replace(manifest.input, dtype="float32"))
    status, lines, err = run(own)
    assert status == 1
    assert lines[0].startswith("REFUSED  manifest.json: the input is Tensor(name='pixels', dtype='float32'")
    assert "was expected" in err


def test_a_bundle_without_the_fp32_graph_is_refused(run, own):
    manifest = Bundle.open(own).manifest
    republish(own, graphs={"model.fp16.onnx": manifest.graphs["model.fp16.onnx"]})
    status, _, err = run(own)
    assert status == 1
    assert "it describes the graphs ['model.fp16.onnx']; model.onnx was expected among them" in err


def test_graphs_that_have_changed_places_are_refused_by_their_types(run, own):
    bundle = Bundle.open(own)
    swapped = {"model.onnx": bundle.read("model.fp16.onnx"), "model.fp16.onnx": bundle.read("model.onnx")}
    republish(own, swapped)
    status, lines, _ = run(own)
    assert status == 1
    refused = [line for line in lines if line.startswith("REFUSED")]
    assert len(refused) == 2
    assert "layers are not FLOAT16" in refused[0]
    assert "layers are not FLOAT:" in refused[1]


def test_a_graph_that_is_none_is_refused(run, own):
    republish(own, {"model.onnx": b"no graph at all"})
    status, lines, _ = run(own)
    assert status == 1
    assert "REFUSED  model.onnx: it is no ONNX graph; export the model again" in lines


def test_a_precision_that_is_none_is_refused(run, own):
    graphs = Bundle.open(own).manifest.graphs
    changed = dataclasses.replace(graphs["model.fp16.onnx"], precision="fp8")
    republish(own, graphs=graphs | {"model.fp16.onnx": changed})
    status, _, err = run(own)
    assert status == 1
    assert "model.fp16.onnx: its precision is 'fp8'; fp32 or fp16" in err


def test_a_plan_names_the_graph_it_was_built_from(run, own):
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan_of(Bundle.open(own).manifest)})
    status, lines, _ = run(own)
    assert status == 0
    expected = "4 bytes with the digest listed, plan of tensorrt 11.4.0.106 in FP16 from model.fp16.onnx"
    assert f"passed   a.plan: {expected}" in lines


def test_a_plan_of_an_older_graph_is_refused(run, own):
    plan = plan_of(Bundle.open(own).manifest, graph_sha256="0" * 64)
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan})
    status, _, err = run(own)
    assert status == 1
    assert f"a.plan: it was built from a graph with SHA-256 {'0' * 64}, which is none of the bundle's" in err
    assert f"python -m export.to_trt --bundle {own}" in err


def test_a_plan_in_another_precision_than_its_graph_is_refused(run, own):
    plan = plan_of(Bundle.open(own).manifest, precision="fp32")
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan})
    status, _, err = run(own)
    assert status == 1
    assert "a.plan: it is described as fp32, but was built from model.fp16.onnx, which is fp16" in err


def test_a_model_that_is_not_listed_is_refused_and_a_note_is_told(run, own):
    (own / "NOTES.txt").write_text("mine")
    status, lines, _ = run(own)
    assert status == 0
    assert lines[-1].startswith("noted    NOTES.txt: the manifest does not list it, so it was not checked")
    (own / "model.onnx.data").write_bytes(b"")
    status, lines, err = run(own)
    assert status == 1
    assert "REFUSED  model.onnx.data: the manifest does not list it; remove it" in lines
    assert "NOTES" not in err


# With data


def test_the_gate_runs_again_without_the_checkpoint(run, bundle):
    status, lines, err = run(bundle, "--parity")
    assert (status, err) == (0, "")
    parity = Bundle.open(bundle).manifest.graphs["model.onnx"].parity
    assert lines[-3] == (
        f"passed   accuracy of model.onnx: {parity.candidate_accuracy:.2%} of {parity.images} test images, as the "
        "manifest says"
    )
    assert lines[-2].startswith(f"passed   model.onnx on ONNX Runtime: {parity.images} images, 0 digits changed")
    assert lines[-1].startswith(f"passed   model.fp16.onnx on ONNX Runtime: {parity.images} images, ")


def test_an_accuracy_that_the_graph_does_not_have_is_refused(run, own):
    graphs = Bundle.open(own).manifest.graphs
    flattered = dataclasses.replace(graphs["model.onnx"].parity, candidate_accuracy=0.9999)
    changed = dataclasses.replace(graphs["model.onnx"], parity=flattered)
    republish(own, graphs=graphs | {"model.onnx": changed})
    assert run(own).status == 0
    status, _, err = run(own, "--parity")
    assert status == 1
    assert "accuracy of model.onnx: " in err
    assert "test images; the manifest says 99.9900% of 360" in err


def test_an_fp16_graph_of_other_weights_is_refused(run, own):
    model = onnx.load(own / "model.fp16.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = onnx.numpy_helper.to_array(weights) * np.float16(-1)
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    republish(own, {"model.fp16.onnx": model.SerializeToString()})
    assert run(own).status == 0
    status, lines, err = run(own, "--parity")
    assert status == 1
    assert lines[-2].startswith("passed   model.onnx on ONNX Runtime")
    assert lines[-1].startswith("REFUSED  model.fp16.onnx on ONNX Runtime: a probability differs by ")
    assert "images change their digit although the reference was decided" in err


def test_other_tolerances_decide_otherwise(run, bundle, tmp_path):
    strict = tmp_path / "strict.toml"
    strict.write_text("[fp16]\nmax_difference = 0\n")
    status, _, err = run(bundle, "--parity", "--tolerances", strict)
    assert status == 1
    assert "at most 0 is tolerated" in err


def test_answers_are_not_compared_where_a_file_is_damaged(run, own):
    (own / "model.onnx").write_bytes(b"better")
    status, lines, _ = run(own, "--parity")
    assert status == 1
    assert not any("ONNX Runtime" in line for line in lines)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "checkpoint.trained.data is None; name and sha256 of a data set were expected"),
        ({"data": {"name": "digits8x8", "sha256": "0" * 64}}, "name the right folder with --data-root"),
    ],
)
def test_without_the_data_of_the_training_nothing_is_compared(run, own, metadata, message):
    checkpoint = Bundle.open(own).manifest.checkpoint
    republish(own, checkpoint=dataclasses.replace(checkpoint, trained=metadata))
    status, lines, err = run(own, "--parity")
    assert status == 1
    assert message in err
    assert not any("ONNX Runtime" in line for line in lines)


@pytest.mark.parametrize("arguments", [("--data-root", "data"), ("--tolerances", "bounds.toml")])
def test_an_option_that_would_be_ignored_is_refused(run, bundle, arguments):
    assert run(bundle, *arguments) == (
        1,
        [],
        "error: --data-root and --tolerances belong to --parity; add it, or leave them out\n",
    )


# Plans


@without_gpu
def test_without_a_gpu_a_plan_is_not_run_and_the_reason_is_told(run, own):
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan_of(Bundle.open(own).manifest)})
    status, lines, _ = run(own, "--parity")
    assert status == 0
    assert lines[-1] == f"not run  a.plan: {find_gpu()}"


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """A GPU that this machine seems to have."""
    gpu = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0")
    monkeypatch.setattr(verify, "find_gpu", lambda: gpu)
    return gpu


def test_a_plan_of_another_version_is_not_run_and_both_versions_are_told(run, own, gpu, monkeypatch):
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan_of(Bundle.open(own).manifest, gpu=gpu)})
    monkeypatch.setattr(products.Product, "version", lambda product: "11.5.0.1")
    status, lines, _ = run(own, "--parity")
    assert status == 0
    assert lines[-1].startswith("not run  a.plan: it is of tensorrt 11.4.0.106, here is 11.5.0.1")


@pytest.fixture
def served(own, gpu, monkeypatch) -> Callable[[Callable[[np.ndarray], np.ndarray] | StartupError], None]:
    """A bundle with a plan that fits; called with what stands in for the plan's answers on a GPU."""
    version = products.TENSORRT_RTX.version()
    plan = plan_of(Bundle.open(own).manifest, product="tensorrt-rtx", version=version, gpu=None)
    republish(own, {"a.plan": b"plan"}, plans={"a.plan": plan})
    products.choose(products.TENSORRT_RTX)
    from serve.engines import tensorrt

    def answer(with_: Callable[[np.ndarray], np.ndarray] | StartupError) -> None:
        @contextmanager
        def open_(content: bytes, described: Plan):
            assert (content, described) == (b"plan", plan)
            if isinstance(with_, StartupError):
                raise with_
            shots = [Shot(size, with_) for size in (1, 4, 8)]
            yield tensorrt.TensorRtEngine(shots, described)

        monkeypatch.setattr(tensorrt, "open_tensorrt", open_)

    return answer


@dataclasses.dataclass
class Shot:
    """One batch size of an engine."""

    size: int
    run: Callable[[np.ndarray], np.ndarray]


@needs_rtx
def test_a_plan_that_fits_is_run_on_every_image_at_every_size(run, own, served):
    sizes = []
    with open_onnx_runtime((own / "model.fp16.onnx").read_bytes()) as engine:

        def answer(pixels: np.ndarray) -> np.ndarray:
            sizes.append(len(pixels))
            return engine.run(pixels)

        served(answer)
        status, lines, _ = run(own, "--parity")
    assert status == 0
    assert lines[-1].startswith("passed   a.plan: 360 images, 0 digits changed")
    assert sum(sizes) >= 3 * 360
    assert set(sizes) >= {1, 4, 8}


@needs_rtx
def test_a_plan_that_answers_otherwise_is_refused(run, own, served):
    served(lambda pixels: np.full((len(pixels), 10), 0.1, np.float32))
    status, lines, _ = run(own, "--parity")
    assert status == 1
    assert lines[-1].startswith("REFUSED  a.plan: in batches of 1, a probability differs by ")


@needs_rtx
def test_a_plan_that_cannot_be_loaded_is_refused(run, own, served):
    served(StartupError("the plan cannot be used: no memory"))
    status, lines, _ = run(own, "--parity")
    assert status == 1
    assert lines[-1] == "REFUSED  a.plan: the plan cannot be used: no memory"
