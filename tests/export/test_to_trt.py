"""What the command does on a machine that has no TensorRT."""

import importlib.util
import json
from importlib.machinery import ModuleSpec

import pytest

from bundle import Bundle
from export import to_trt
from export.errors import MissingLibraryError, OptionError
from export.to_trt import Profile, find_product


@pytest.fixture
def installed(monkeypatch):
    """Called with names of modules, makes them the only ones that can be found."""

    def only(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None) if name in names else None)

    return only


def test_without_tensorrt_the_onnx_bundle_is_left_complete_and_the_message_says_what_to_install(
    checkpoint, tmp_path, capsys, monkeypatch, installed
):
    installed()
    monkeypatch.setattr("sys.argv", ["to_trt", str(checkpoint), "--output", str(tmp_path / "bundle")])
    assert to_trt.main() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no plan was built: tensorrt or tensorrt-rtx is not installed; `pip install")
    assert ".[gpu]" in error
    assert Bundle.open(tmp_path / "bundle").manifest.name == "compact"


def test_a_profile_out_of_order_is_refused_before_any_work(checkpoint, tmp_path, capsys, monkeypatch):
    arguments = ["to_trt", str(checkpoint), "--output", str(tmp_path / "bundle"), "--batch", "8:4:16"]
    monkeypatch.setattr("sys.argv", arguments)
    assert to_trt.main() == 1
    printed = capsys.readouterr()
    assert "--batch is '8:4:16'; 1 ≤ MIN ≤ OPT ≤ MAX was expected" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "a:b:c", "1:-2:3", "0:1:2", "3:2:1", "1:2:1"])
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(OptionError, match="--batch is"):
        Profile.parse(text)


def test_a_profile_is_read_as_it_is_written():
    assert Profile.parse("1:32:256") == Profile(min=1, opt=32, max=256)


def test_tensorrt_comes_first_and_the_other_product_when_it_is_asked_for(installed):
    installed("tensorrt", "tensorrt_rtx")
    assert find_product("auto") == "tensorrt"
    assert find_product("tensorrt-rtx") == "tensorrt-rtx"
    installed("tensorrt_rtx")
    assert find_product("auto") == "tensorrt-rtx"
    with pytest.raises(MissingLibraryError, match=r"tensorrt is not installed; `pip install '\.\[gpu\]'`"):
        find_product("tensorrt")


def test_the_bundle_is_that_of_to_onnx(checkpoint, bundle, tmp_path, monkeypatch, installed):
    installed()
    monkeypatch.setattr("sys.argv", ["to_trt", str(checkpoint), "--output", str(tmp_path / "bundle")])
    assert to_trt.main() == 1
    for name in ("manifest.json", "parity.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (tmp_path / "bundle", bundle))
        assert ours == theirs
