"""Which engine is chosen. The GPU is a fake, as are the versions installed; bundles, plans and refusals are real."""

import dataclasses
import importlib.util
import logging
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from bundle import Bundle
from bundle.manifest import Gpu, Parity, Plan, Profile
from bundle.store import publish
from export import to_trt
from serve.app import Server
from serve.config import ServeConfig
from serve.engines import onnx_runtime, products, selection
from serve.engines.gpu import find_gpu
from serve.engines.selection import mismatch, select
from serve.errors import EngineLost, StartupError

H200 = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0")
L4 = Gpu(name="NVIDIA L4", compute_capability="8.9", driver="13.0")
PARITY = Parity(images=360, flips=0, max_difference=1e-3, reference_accuracy=0.98, candidate_accuracy=0.97)


@pytest.fixture
def opened(bundle) -> Bundle:
    return Bundle.open(bundle)


def plan_of(bundle: Bundle, **changes: object) -> Plan:
    """A plan that fits an H200 with TensorRT 11.4 and was checked there."""
    fields = {
        "product": "tensorrt",
        "version": "11.4.0.106",
        "gpu": H200,
        "precision": "fp16",
        "graph_sha256": bundle.manifest.files["model.fp16.onnx"].sha256,
        "profiles": [Profile(min=1, opt=1, max=1), Profile(min=2, opt=32, max=128)],
        "options": {},
        "audit": {},
        "build_seconds": 1.0,
        "parity": PARITY,
    }
    return Plan(**fields | changes)


def with_plans(bundle: Bundle, place: Path, *plans: Plan) -> Bundle:
    """A copy of a bundle that has these plans, whose content is no code."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files |= {plan.file_name: b"no plan" for plan in plans}
    manifest = dataclasses.replace(bundle.manifest, files={}, plans={plan.file_name: plan for plan in plans})
    return publish(place, manifest, files)


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """Versions of the products by name, which a test may change."""
    versions = {"tensorrt": "11.4.0.106"}
    monkeypatch.setattr(products.Product, "version", lambda product: versions.get(product.name))
    return versions


@pytest.fixture
def h200(monkeypatch) -> None:
    """A machine that says it has that GPU."""
    monkeypatch.setattr(selection, "find_gpu", lambda: H200)


class Session:
    """ONNX Runtime's own on the CPU, which says that it computes on a GPU, until there is a failure to raise."""

    def __init__(self, graph: bytes, failures: list[Exception]) -> None:
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._failures = failures
        self.io_binding = self._session.io_binding

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def run_with_iobinding(self, *arguments: object) -> None:
        if self._failures:
            raise self._failures[-1]
        self._session.run_with_iobinding(*arguments)


@pytest.fixture
def cuda(monkeypatch) -> list[Exception]:
    """A build of ONNX Runtime that says it can use a GPU, whose sessions raise what is put here."""
    failures: list[Exception] = []
    monkeypatch.setattr(selection, "has_cuda", lambda: True)
    on_cpu = onnx_runtime._open

    def open_session(graph: bytes, options: object, providers: list[object]) -> object:
        if providers == ["CPUExecutionProvider"]:
            return on_cpu(graph, options, providers)
        return Session(graph, failures)

    monkeypatch.setattr(onnx_runtime, "_open", open_session)
    return failures


# Without a GPU


@pytest.mark.skipif(not isinstance(find_gpu(), str), reason="there is a GPU")
class TestWithoutAGpu:
    def test_the_fp32_graph_is_served_on_the_cpu(self, opened):
        chosen = select(opened)
        assert (chosen.file, chosen.batch, chosen.largest_batch) == ("model.onnx", None, None)
        assert chosen.accuracy == opened.manifest.graphs["model.onnx"].parity.candidate_accuracy
        with chosen.open() as engine:
            assert (engine.name, engine.device, engine.precision) == ("onnxruntime", "cpu", "fp32")
            assert engine.run(np.zeros((3, 1, 28, 28), np.uint8)).shape == (3, 10)

    @pytest.mark.parametrize("engine", ["tensorrt", "onnxruntime-cuda"])
    def test_an_engine_that_needs_one_is_refused_with_the_reason(self, opened, engine):
        message = (
            rf"engine {engine} needs an NVIDIA GPU: no NVIDIA GPU can be used: .*[^.]; engine onnxruntime computes"
        )
        with pytest.raises(StartupError, match=message):
            select(opened, engine)

    async def test_a_server_told_to_use_one_does_not_start(self, bundle):
        with pytest.raises(StartupError, match="engine tensorrt needs an NVIDIA GPU"):
            await Server(ServeConfig(models=bundle, port=0, engine="tensorrt")).start()

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
    def test_a_real_plan_that_is_loaded_nevertheless_is_refused_with_a_reason(
        self, bundle, tmp_path, monkeypatch, capsys
    ):
        own = shutil.copytree(bundle, tmp_path / "own")
        monkeypatch.setattr(sys, "argv", ["to_trt", "--bundle", str(own), "--product", "tensorrt-rtx"])
        assert to_trt.main() == 0
        monkeypatch.setattr(selection, "find_gpu", lambda: H200)
        chosen = select(Bundle.open(own), "tensorrt")
        assert chosen.file.startswith("tensorrt-rtx-")
        with pytest.raises(StartupError, match=r"the GPU cannot be used: .*driver"), chosen.open():
            pass


# What a plan has to fit


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"gpu": None}, None),
        (
            {"gpu": L4},
            "it is of NVIDIA L4 (compute capability 8.9), here is NVIDIA H200 (compute capability 9.0)",
        ),
        ({"version": "11.3.0.99"}, "it is of tensorrt 11.3.0.99, here is 11.4.0.106"),
        (
            {"product": "tensorrt-rtx", "version": "1.7.1"},
            "it is of tensorrt-rtx 1.7.1, which is not installed here (pip install '.[rtx]')",
        ),
        ({"product": "openvino"}, "it is of 'openvino'; tensorrt or tensorrt-rtx was expected"),
        ({"graph_sha256": "0" * 64}, "it was built from another graph than the bundle's"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_mismatch_names_both_sides(opened, changes, reason):
    assert mismatch(plan_of(opened, **changes), opened, H200) == reason


@pytest.mark.usefixtures("installed", "h200")
class TestWithAGpu:
    def test_a_plan_that_does_not_fit_is_named_with_the_command_that_builds_one(self, opened, tmp_path):
        bundle = with_plans(opened, tmp_path / "b", plan_of(opened, gpu=L4))
        with pytest.raises(StartupError) as caught:
            select(bundle, "tensorrt")
        assert str(caught.value) == (
            "no plan fits this machine: tensorrt-11.4.0.106-fp16-sm8.9-nvidia-l4.plan: it is of NVIDIA L4 (compute "
            "capability 8.9), here is NVIDIA H200 (compute capability 9.0); build one here with python -m "
            "export.to_trt --bundle DIR"
        )

    def test_a_bundle_without_plans_says_so(self, opened):
        with pytest.raises(StartupError, match="no plan fits this machine: the bundle has none; build one here"):
            select(opened, "tensorrt")

    def test_auto_falls_back_to_the_cpu_and_says_why_each_other_was_passed_over(self, opened, tmp_path, caplog):
        bundle = with_plans(opened, tmp_path / "b", plan_of(opened, gpu=L4))
        with caplog.at_level(logging.WARNING):
            chosen = select(bundle)
        assert chosen.file == "model.onnx"
        first, second = (record.message for record in caplog.records)
        assert first.startswith("no plan fits this machine: ")
        assert second.startswith("this build of ONNX Runtime has no CUDA provider; `pip uninstall")

    def test_auto_passes_over_a_plan_that_was_never_checked(self, opened, tmp_path, caplog):
        bundle = with_plans(opened, tmp_path / "b", plan_of(opened, parity=None))
        assert select(bundle).file == "model.onnx"
        assert "it has not been checked on a GPU; --engine tensorrt serves it nevertheless" in caplog.text

    def test_onnx_runtime_without_cuda_is_refused_where_it_was_asked_for(self, opened):
        with pytest.raises(StartupError, match="has no CUDA provider"):
            select(opened, "onnxruntime-cuda")

    def test_the_cpu_is_taken_where_it_was_asked_for(self, opened):
        assert select(opened, "onnxruntime").file == "model.onnx"

    @pytest.mark.skipif(onnx_runtime.has_cuda(), reason="this build can allocate on a GPU")
    def test_auto_falls_back_where_the_library_fails_only_after_it_has_read_the_graph(self, opened, cuda, caplog):
        with caplog.at_level(logging.WARNING):
            assert select(opened).file == "model.onnx"
        assert re.search(r"cannot use the GPU: Can't allocate memory on the CUDA device.*; falling back", caplog.text)

    def test_a_gpu_that_dies_is_lost_for_good(self, opened, cuda, monkeypatch):
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        monkeypatch.setattr(
            onnxruntime.OrtValue,
            "ortvalue_from_shape_and_type",
            lambda shape, kind, _device, _index: allocate(shape, kind, "cpu", 0),
        )
        chosen = select(opened)
        assert chosen.file == "model.fp16.onnx"
        with chosen.open() as engine:
            assert engine.run(np.zeros((3, 1, 28, 28), np.uint8)).shape == (3, 10)
            cuda.append(Fail("CUDA error 700: an illegal memory access was encountered"))
            with pytest.raises(EngineLost, match="the GPU failed on a batch of 4: CUDA error 700"):
                engine.run(np.zeros((3, 1, 28, 28), np.uint8))


@pytest.mark.usefixtures("installed", "h200")
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
class TestAFittingPlan:
    """Of TensorRT for RTX, the product that is installed where these tests run."""

    @pytest.fixture(autouse=True)
    def rtx(self, installed) -> None:
        installed["tensorrt-rtx"] = "1.7.1"

    def plan(self, opened: Bundle, **changes: object) -> Plan:
        return plan_of(opened, product="tensorrt-rtx", version="1.7.1", **changes)

    def test_is_chosen_with_what_it_can_take_and_what_was_measured(self, opened, tmp_path):
        plan = self.plan(opened)
        chosen = select(with_plans(opened, tmp_path / "b", plan), "tensorrt")
        assert (chosen.file, chosen.accuracy) == (plan.file_name, 0.97)
        assert (chosen.slots, chosen.batch, chosen.largest_batch) == (2, 128, 128)

    def test_comes_before_one_that_was_not_checked_and_fp16_before_fp32(self, opened, tmp_path):
        graph = opened.manifest.files["model.onnx"].sha256
        fp32 = self.plan(opened, precision="fp32", graph_sha256=graph)
        unchecked = self.plan(opened, parity=None)
        assert select(with_plans(opened, tmp_path / "a", unchecked, fp32), "tensorrt").file == fp32.file_name
        checked = self.plan(opened)
        assert select(with_plans(opened, tmp_path / "b", checked, fp32), "tensorrt").file == checked.file_name

    async def test_larger_batches_than_it_takes_are_refused_at_the_start(self, opened, tmp_path):
        bundle = with_plans(opened, tmp_path / "b", self.plan(opened))
        with pytest.raises(StartupError, match=r"--max-batch is 256; .*\.plan takes at most 128 images at a time"):
            await Server(ServeConfig(models=bundle.path, port=0, engine="tensorrt", max_batch=256)).start()
