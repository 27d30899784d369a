"""The command that writes a model repository for Triton: what is in it, and that nothing there is ever replaced."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from bundle import Bundle, publish
from bundle.manifest import Gpu, Plan, Profile
from export import to_triton


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`python -m export.to_triton ARGUMENTS`: exit status, what it printed, and on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["to_triton", *map(str, arguments)])
        status = to_triton.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def repository(tmp_path) -> Path:
    """Where Triton would look; nothing is there yet."""
    return tmp_path / "models"


@pytest.fixture
def publish_as(bundle, tmp_path) -> Callable[..., Path]:
    """Called with changes to the manifest, gives a bundle with them."""

    def publish_as(folder: str = "own", **changes: Any) -> Path:
        original = Bundle.open(bundle)
        content = {name: original.read(name) for name in original.manifest.files}
        content |= {name: name.encode() for name in changes.get("plans", {})}
        publish(tmp_path / folder, dataclasses.replace(original.manifest, files={}, **changes), content)
        return tmp_path / folder

    return publish_as


@pytest.fixture
def plan(bundle) -> Callable[..., Plan]:
    """Called with batch sizes MIN:OPT:MAX, describes a plan from the bundle's FP16 graph."""

    def plan(*profiles: str, **changes: Any) -> Plan:
        described = Plan(
            product="tensorrt",
            version="11.4.0.106",
            gpu=Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0"),
            precision="fp16",
            graph_sha256=Bundle.open(bundle).manifest.files["model.fp16.onnx"].sha256,
            profiles=[
                Profile(**dict(zip(("min", "opt", "max"), map(int, text.split(":")), strict=True)))
                for text in profiles or ("1:32:256",)
            ],
            options={"version_compatible": False},
            audit={},
            build_seconds=1.0,
            parity=None,
        )
        return dataclasses.replace(described, **changes)

    return plan


def read_config(folder: Path) -> ModelConfig:
    """A model's configuration, by Triton's own definition of one."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def content_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden entries included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_a_repository_holds_the_graph_its_configuration_and_its_labels(run, bundle, repository):
    status, out, err = run(bundle, repository)
    assert (status, err) == (0, "")
    assert content_of(repository).keys() == {"compact/config.pbtxt", "compact/labels.txt", "compact/1/model.onnx"}
    assert (repository / "compact/1/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert (repository / "compact/labels.txt").read_text().split() == list("0123456789")
    assert out.splitlines() == [
        f"wrote {repository}/compact/1/model.onnx from model.onnx",
        f"serve it with: tritonserver --model-repository={repository}",
    ]


def test_the_configuration_says_what_the_graph_takes_and_gives(run, bundle, repository):
    run(bundle, repository)
    config = read_config(repository / "compact")
    assert (config.name, config.platform, config.max_batch_size) == ("compact", "onnxruntime_onnx", 256)
    [taken], [given] = config.input, config.output
    assert (taken.name, taken.data_type, list(taken.dims)) == ("pixels", model_config_pb2.TYPE_UINT8, [1, 28, 28])
    assert (given.name, given.data_type, list(given.dims)) == ("probabilities", model_config_pb2.TYPE_FP32, [10])
    assert given.label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.preferred_batch_size
    [group] = config.instance_group
    assert (group.kind, group.count) == (ModelInstanceGroup.KIND_AUTO, 1)


def test_another_graph_is_taken_by_its_name(run, bundle, repository):
    assert run(bundle, repository, "--file", "model.fp16.onnx")[0] == 0
    assert (repository / "compact/1/model.onnx").read_bytes() == (bundle / "model.fp16.onnx").read_bytes()


def test_a_plan_is_served_on_gpus_up_to_its_largest_batch(run, publish_as, plan, repository):
    status, out, _ = run(publish_as(plans={"a.plan": plan("1:16:64")}), repository, "--plan")
    assert status == 0
    assert (repository / "compact/1/model.plan").read_bytes() == b"a.plan"
    config = read_config(repository / "compact")
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 64)
    [group] = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (ModelInstanceGroup.KIND_GPU, 2, [])
    assert not config.dynamic_batching.preferred_batch_size
    assert out.endswith("of a release with TensorRT 11.4.0.106, on NVIDIA H200\n")


def test_of_several_profiles_all_are_used_and_batches_are_made_for_them(run, publish_as, plan, repository):
    run(publish_as(plans={"a.plan": plan("2:64:256", "1:1:1")}), repository, "--plan")
    config = read_config(repository / "compact")
    assert config.max_batch_size == 256
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 64]
    assert list(config.instance_group[0].profile) == ["0", "1"]


def test_a_version_compatible_plan_comes_with_the_option_that_it_needs(run, publish_as, plan, repository):
    own = publish_as(plans={"a.plan": plan(options={"version_compatible": True})})
    _, out, _ = run(own, repository, "--plan")
    assert "--backend-config=tensorrt,version-compatible=true, of a release with TensorRT 11.4.0.106 or later" in out


# Which plan


def test_of_several_plans_one_must_be_named(run, publish_as, plan, repository):
    own = publish_as(plans={"a.plan": plan(), "b.plan": plan(precision="fp16", version="11.5.0.1")})
    status, out, err = run(own, repository, "--plan")
    assert (status, out) == (1, "")
    assert "--plan needs one plan of TensorRT, the bundle has 2; name one with --file" in err
    assert "a.plan (tensorrt 11.4.0.106, fp16, for NVIDIA H200); b.plan (tensorrt 11.5.0.1, fp16" in err
    assert not repository.exists()
    assert run(own, repository, "--file", "b.plan")[0] == 0
    assert (repository / "compact/1/model.plan").read_bytes() == b"b.plan"


def test_a_plan_of_tensorrt_is_preferred_to_one_that_triton_cannot_load(run, publish_as, plan, repository):
    own = publish_as(plans={"a.plan": plan(product="tensorrt-rtx", gpu=None), "b.plan": plan()})
    assert run(own, repository, "--plan")[0] == 0
    assert (repository / "compact/1/model.plan").read_bytes() == b"b.plan"


@pytest.mark.parametrize(
    ("plans", "found"),
    [({}, "none"), ({"a.plan": "tensorrt-rtx"}, "a.plan (tensorrt-rtx 11.4.0.106, fp16, for any GPU)")],
)
def test_without_a_plan_of_tensorrt_the_message_names_what_there_is(run, publish_as, plan, repository, plans, found):
    own = publish_as(plans={name: plan(product=product, gpu=None) for name, product in plans.items()})
    status, _, err = run(own, repository, "--plan")
    assert status == 1
    assert "the bundle has 0; build one with python -m export.to_trt --bundle DIR" in err
    assert err.endswith(f"Its plans: {found}\n")


def test_a_plan_of_tensorrt_for_rtx_is_refused_though_it_is_named(run, publish_as, plan, repository):
    own = publish_as(plans={"a.plan": plan(product="tensorrt-rtx", gpu=None)})
    status, _, err = run(own, repository, "--file", "a.plan")
    assert status == 1
    assert "a.plan is a plan of tensorrt-rtx; Triton loads plans of tensorrt only" in err
    assert not repository.exists()


@pytest.mark.parametrize("profiles", [("2:4:8",), ("1:1:1", "4:8:16"), ("8:16:32", "1:2:6")])
def test_a_plan_that_leaves_batch_sizes_out_is_refused(run, publish_as, plan, repository, profiles):
    status, _, err = run(publish_as(plans={"a.plan": plan(*profiles)}), repository, "--plan")
    assert status == 1
    assert f"a.plan takes {' and '.join(profiles)} images at a time (MIN:OPT:MAX)" in err
    assert "such as --batch 1:32:256" in err


def test_a_file_that_is_no_model_is_refused(run, bundle, repository):
    status, _, err = run(bundle, repository, "--file", "README.md")
    assert (status, err) == (
        1,
        "error: --file is 'README.md'; one of model.fp16.onnx, model.onnx was expected\n",
    )


def test_a_graph_and_a_plan_cannot_both_be_asked_for(run, bundle, repository):
    status, _, err = run(bundle, repository, "--plan", "--file", "model.onnx")
    assert status == 1
    assert "--file model.onnx is a graph, and --plan asks for a plan" in err


# What is there stays


def test_the_same_again_changes_nothing(run, bundle, repository):
    run(bundle, repository)
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    status, out, _ = run(bundle, repository)
    assert status == 0
    assert out.startswith(f"{repository}/compact/1/model.onnx is there already, with the same content\n")
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_second_version_and_a_second_model_are_added(run, bundle, publish_as, repository):
    run(bundle, repository)
    before = content_of(repository)
    assert run(publish_as("second", version="2"), repository)[0] == 0
    assert run(publish_as("other", name="other"), repository)[0] == 0
    after = content_of(repository)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {
        "compact/2/model.onnx",
        *("other/config.pbtxt", "other/labels.txt", "other/1/model.onnx"),
    }


@pytest.mark.parametrize("changed", ["1/model.onnx", "config.pbtxt", "labels.txt"])
def test_other_content_is_never_replaced(run, bundle, publish_as, repository, changed):
    run(bundle, repository)
    (repository / "compact" / changed).write_bytes(b"mine")
    before = content_of(repository)
    status, _, err = run(bundle, repository)
    assert status == 1
    assert f"{repository}/compact/{changed}: found other content" in err
    assert "nothing is replaced" in err
    if "/" not in changed:  # another version shares it
        assert run(publish_as(version="2"), repository)[0] == 1
    assert content_of(repository) == before


def test_a_graph_where_a_plan_is_served_is_refused(run, publish_as, plan, repository):
    own = publish_as(plans={"a.plan": plan()})
    assert run(own, repository, "--plan")[0] == 0
    before = content_of(repository)
    status, _, err = run(own, repository)
    assert status == 1
    assert "config.pbtxt: found other content" in err
    assert content_of(repository) == before


def test_a_repository_that_cannot_be_written_is_refused(run, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(bundle, tmp_path / "file")
    assert status == 1
    assert err.startswith(f"error: {tmp_path}/file/compact: ")
    assert "nothing was written" in err


@pytest.mark.parametrize(("owner", "step"), [(to_triton.os, "fsync"), (Path, "rename")])
def test_what_fails_half_way_leaves_nothing(run, bundle, publish_as, repository, monkeypatch, owner, step):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    second = publish_as(version="2")
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, full)
        status, _, err = run(bundle, repository)
        assert status == 1
        assert "No space left on device; nothing was written; free some space" in err
        assert list(repository.iterdir()) == []
    run(bundle, repository)
    before = content_of(repository)
    monkeypatch.setattr(owner, step, full)
    assert run(second, repository)[0] == 1
    assert content_of(repository) == before


def test_a_bundle_that_was_changed_by_hand_is_refused(run, bundle, repository, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    (own / "model.onnx").write_bytes(b"better")
    status, _, err = run(own, repository)
    assert status == 1
    assert "the file was changed after it was published" in err
    assert not repository.exists()
