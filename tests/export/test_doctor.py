"""The command that says what a machine can do: here, on machines that have more, and where hardly anything is there."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch

from bundle.manifest import Gpu
from export import doctor
from serve.engines import onnx_runtime

ROOT = Path(__file__).resolve().parents[2]
GPU = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.2")


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`python -m export.doctor ARGUMENTS`: exit status, what it printed, and on stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
        status = doctor.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def machine(monkeypatch) -> Callable[..., None]:
    """Called with versions by distribution, makes them what is installed; None takes one away."""
    version = importlib.metadata.version

    def machine(versions: dict[str, str | None], *, gpu: Gpu | str = "no GPU", providers: tuple[str, ...] = ()) -> None:
        def found(name: str) -> str:
            changed = versions.get(name, "as it is")
            if changed is None:
                raise PackageNotFoundError(name)
            return version(name) if changed == "as it is" else changed

        monkeypatch.setattr(importlib.metadata, "version", found)
        monkeypatch.setattr("serve.engines.gpu.find_gpu", lambda: gpu)
        if providers:
            monkeypatch.setattr(onnx_runtime, "providers", lambda: list(providers))

    return machine


@pytest.fixture
def verdicts(run) -> Callable[[], dict[str, dict[str, Any]]]:
    """What the command says of each command in its JSON, by name."""

    def verdicts() -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(run("--json")[1])["commands"]}

    return verdicts


NO_TENSORRT = {name: None for product in ("tensorrt", "tensorrt-rtx") for name in (product, f"{product}-cu13")} | {
    "tensorrt-cu12": None,
    "tensorrt-rtx-cu12": None,
}


# Here


def test_versions_and_providers_are_those_of_this_environment(run):
    status, out, err = run("--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["found"]["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert document["found"]["PyTorch"].startswith(torch.__version__)
    assert document["found"]["ONNX"] == onnx.__version__
    assert onnxruntime.__version__ in document["found"].values()
    assert document["providers"] == onnxruntime.get_available_providers()


def test_what_the_tests_of_this_project_need_can_run(verdicts):
    found = verdicts()
    assert all(found[name]["can_run"] for name in ("train", "export-onnx", "serve-cpu"))


def test_the_text_says_what_the_json_says_in_aligned_columns(run, machine):
    machine(NO_TENSORRT | {"cuda-core": None}, gpu="no NVIDIA GPU can be used")
    document = json.loads(run("--json")[1])
    status, out, _ = run()
    assert status == 0
    above, below = (part.splitlines() for part in out.split("\n\n"))
    start = above[0].index(document["found"]["Python"])
    for (name, text), line in zip(document["found"].items(), above, strict=True):
        assert line == f"{name:<{start}}{text}"
    named = [line for line in below if not line.startswith(" ")]
    assert [line.split()[0] for line in named] == [each["name"] for each in document["commands"]]
    column = below[0].index("can run")
    for line in below:
        assert len(line) <= 120
        assert line[column - 1] == " " != line[column]
    text = " ".join(line[column:] for line in below)
    for each in document["commands"]:
        for part in (*each["missing"], *each["install"]):
            assert part in text


# Elsewhere


def test_a_machine_with_everything_can_do_everything(verdicts, machine):
    machine(
        {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116", "cuda-core": "1.2.2"},
        gpu=GPU,
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    )
    assert {name: each["missing"] for name, each in verdicts().items() if each["missing"]} == {}


def test_the_gpu_is_named_with_its_driver(run, machine):
    machine({}, gpu=GPU)
    document = json.loads(run("--json")[1])
    assert document["found"]["GPU"] == "NVIDIA H200, compute capability 9.0"
    assert document["found"]["CUDA of the driver"] == "13.2"
    assert document["gpu"] == {"name": "NVIDIA H200", "compute_capability": "9.0", "driver": "13.2"}


def test_without_torch_training_and_export_lack_it_and_serving_does_not(verdicts, machine):
    machine({"torch": None})
    found = verdicts()
    assert found["train"]["missing"] == ["torch"]
    assert found["train"]["install"] == ["pip install '.[train]'"]
    assert found["export-onnx"]["missing"] == ["torch"]
    assert found["export-onnx"]["install"] == ["pip install '.[export]'"]
    assert found["serve-cpu"]["can_run"]


def test_a_version_out_of_bounds_is_named_with_what_was_expected(verdicts, machine):
    machine({"torch": "2.9.1+cu128", "scipy": "2.0"})
    assert verdicts()["train"]["missing"] == [
        "scipy from 1.15 and below 2 (found 2.0)",
        "torch from 2.14 and below 3 (found 2.9.1+cu128)",
    ]


def test_a_torch_that_cannot_be_imported_is_told_as_such(run, monkeypatch):
    def broken() -> str:
        raise OSError("libcudnn.so.9: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor, "_torch", broken)
    document = json.loads(run("--json")[1])
    assert document["found"]["PyTorch"] == "libcudnn.so.9: cannot open shared object file"
    train = document["commands"][0]
    assert train["missing"] == ["a PyTorch that works (libcudnn.so.9: cannot open shared object file)"]
    assert train["install"] == []


def test_without_onnx_runtime_its_build_for_the_cpu_is_advised(verdicts, machine):
    machine({"onnxruntime": None, "onnxruntime-gpu": None})
    found = verdicts()
    assert found["serve-cpu"]["missing"] == ["ONNX Runtime"]
    assert found["serve-cpu"]["install"] == ["pip install '.[cpu]'"]
    assert found["export-onnx"]["install"] == ["pip install '.[cpu]'"]


def test_the_two_builds_of_onnx_runtime_are_never_advised_together(verdicts, machine):
    machine(NO_TENSORRT | {"onnxruntime": "1.31.1", "onnxruntime-gpu": None}, gpu=GPU)
    found = verdicts()
    assert found["serve-gpu"]["missing"] == ["ONNX Runtime with CUDA"]
    assert found["serve-gpu"]["install"] == ["pip uninstall onnxruntime", "pip install '.[gpu]'"]
    machine(NO_TENSORRT | {"onnxruntime": None, "onnxruntime-gpu": None}, gpu=GPU)
    assert verdicts()["build-tensorrt"]["install"] == ["pip install '.[gpu]'"]


@pytest.mark.parametrize(("gpu", "extra"), [("no GPU", "cpu"), (GPU, "gpu")])
def test_both_builds_of_onnx_runtime_at_once_are_told_with_how_to_have_one_that_works(
    run, verdicts, machine, gpu, extra
):
    machine(NO_TENSORRT | {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, gpu=gpu)
    out = " ".join(run()[1].split())
    mend = "pip uninstall onnxruntime onnxruntime-gpu"
    assert out.count(f"both builds are installed: {mend} && pip install '.[{extra}]'") == 2
    assert verdicts()["serve-gpu"]["install"] == [mend, "pip install '.[gpu]'"]


def test_each_tensorrt_is_installed_by_its_own_extra_and_only_one_needs_a_gpu_to_build(verdicts, machine):
    machine(NO_TENSORRT | {"onnxruntime": None, "onnxruntime-gpu": "1.31.1", "cuda-core": "1.2.2"})
    found = verdicts()
    assert found["build-tensorrt"]["missing"] == ["tensorrt", "an NVIDIA GPU"]
    assert found["build-tensorrt"]["install"] == ["pip install '.[gpu]'"]
    assert found["build-tensorrt-rtx"]["missing"] == ["tensorrt-rtx"]
    assert found["build-tensorrt-rtx"]["install"] == ["pip install '.[rtx]'"]
    assert found["serve-plans"]["missing"] == ["TensorRT", "an NVIDIA GPU"]


def test_a_gpu_is_nothing_that_pip_installs(verdicts, machine):
    machine({"tensorrt": "11.4.0.106", "cuda-core": "1.2.2"})
    plans = verdicts()["run-plans"]
    assert (plans["missing"], plans["install"]) == (["an NVIDIA GPU"], [])


# For scripts


def test_what_is_required_decides_the_exit_status(run, machine):
    machine({"torch": None})
    assert run()[0] == 0
    assert run("--require", "serve-cpu")[0] == 0
    status, out, err = run("--require", "serve-cpu", "train")
    assert status == 1
    assert out.startswith("Python ")
    assert err == "error: train lacks torch: pip install '.[train]'\n"


# Where hardly anything is there


def environment(folder: Path, *distributions: str) -> Path:
    """A folder of packages with these distributions and no others."""
    site = Path(numpy.__file__).parents[1]
    for name in distributions:
        for top in {file.parts[0] for file in importlib.metadata.files(name) or []} - {"..", "__pycache__"}:
            (folder / top).symlink_to(site / top)
    return folder


def test_it_works_without_torch_onnx_onnx_runtime_and_cuda(tmp_path):
    packages = environment(tmp_path, "tyro", "numpy", "typing_extensions", "docstring_parser", "typeguard")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "export.doctor", "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["found"]["PyTorch"] == document["found"]["ONNX"] == "not installed"
    assert document["found"]["ONNX Runtime's providers"] == "not installed"
    assert document["found"]["GPU"].startswith("cuda-core is not installed")
    commands = {each["name"]: each for each in document["commands"]}
    assert not any(each["can_run"] for each in commands.values())
    assert commands["serve-cpu"]["install"] == ["pip install '.[cpu]'"]
    assert commands["export-onnx"]["install"] == ["pip install '.[export,cpu]'"]


def test_an_installed_package_says_what_its_extras_ask_for_as_the_checkout_does(monkeypatch, tmp_path):
    texts = [
        "numpy<3,>=2.1",
        "torch<3,>=2.14; extra == 'train'",
        "onnxruntime-gpu[cuda,cudnn]<2,>=1.31; extra == 'gpu'",
    ]
    texts += ["uvloop<1,>=0.22; (sys_platform != 'win32') and extra == 'serving'"]
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "site-packages" / "export" / "doctor.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    doctor._extras.cache_clear()
    try:
        assert list(doctor._requirements("train")) == [("torch", "2.14", "3")]
        assert list(doctor._requirements("gpu")) == [("onnxruntime-gpu", "1.31", "2")]
        assert list(doctor._requirements("serving")) == []
        assert doctor._missing("rtx") == ["what '.[rtx]' asks for"]
    finally:
        doctor._extras.cache_clear()
