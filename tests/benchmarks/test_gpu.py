"""The check of a GPU, where there is none: what it says, and its measurements with PyTorch's own device, the CPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[2]

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def model(bundle, checkpoint, tmp_path) -> Path:
    """A bundle with its checkpoint beside it."""
    shutil.copy(checkpoint, tmp_path / "model.pt")
    return Path(shutil.copytree(bundle, tmp_path / "model"))


@without_gpu
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--results", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: PyTorch sees no NVIDIA GPU; run this on a machine that has one\n"
    assert list(tmp_path.iterdir()) == []


@without_gpu
@pytest.mark.parametrize("engine", ["torch_fp32", "torch_fp16"])
def test_an_engine_is_held_against_the_reference_and_timed(model, monkeypatch, engine):
    monkeypatch.setattr(gpu, "_DEVICE", "cpu")
    monkeypatch.setattr(gpu, "_WARM_UP_S", 0.01)
    monkeypatch.setattr(gpu, "_MEASURE_S", 0.01)
    monkeypatch.setattr(gpu, "_FEWEST_CALLS", 5)
    monkeypatch.setattr(gpu, "SIZES", (1, 8))
    result = json.loads(json.dumps(gpu.measure(engine, model, None)))
    assert result["passed"]
    assert result["parity"]["comparison"]["images"] == 360
    assert (result["parity"]["comparison"]["max_difference"] < 1e-5) == (engine == "torch_fp32")
    assert result["batches"].keys() == {"1", "8"}
    for batch in result["batches"].values():
        assert batch["calls"] >= 5
        assert 0 < batch["microseconds"]["p50"] <= batch["microseconds"]["p99"]
        assert batch["device_microseconds"] is None
    assert result["version"].startswith("torch ")


@without_gpu
@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("onnxruntime_cuda", "no CUDA provider"),
        ("tensorrt", r"tensorrt cannot be loaded \(No module named 'tensorrt'\); pip install"),
    ],
)
def test_an_engine_that_is_not_installed_is_absent_with_the_reason(model, monkeypatch, engine, reason):
    monkeypatch.setattr(gpu, "_DEVICE", "cpu")
    with pytest.raises(gpu.Absent, match=reason):
        gpu.measure(engine, model, None)


def test_lines_tell_what_passed_what_failed_and_what_is_absent():
    batches = {"1": {"microseconds": {"p50": 12.3}}}
    parity = {"comparison": {"flips": [], "max_difference": 0.002}}
    assert gpu._line("torch_fp16", {"passed": True, "parity": parity, "batches": batches}) == (
        "torch_fp16           passed  0 digits changed, difference up to 0.002; median µs by batch 1: 12"
    )
    assert gpu._line("tensorrt", {"absent": "not installed"}) == "tensorrt             absent: not installed"
    assert gpu._line("tensorrt", {"failed": "no memory"}) == "tensorrt             FAILED: no memory"
