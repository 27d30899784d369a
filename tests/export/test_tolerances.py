"""What a file of tolerances may say, and that the gate goes by it."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export import to_onnx
from export.errors import OptionError
from export.tolerances import DEFAULTS, Tolerances, load
from train import checkpoint as checkpoints


@pytest.fixture
def written(tmp_path) -> Callable[[str], Path]:
    """Writes a file of tolerances."""

    def write(text: str) -> Path:
        path = tmp_path / "tolerances.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_without_a_file_the_defaults_are_used():
    assert load(None) == DEFAULTS
    assert DEFAULTS.keys() >= {"fp32", "fp16"}


def test_the_defaults_are_stricter_in_fp32_than_in_fp16():
    assert DEFAULTS["fp32"].max_difference < DEFAULTS["fp16"].max_difference
    assert DEFAULTS["fp32"].max_flip_margin < DEFAULTS["fp16"].max_flip_margin
    assert DEFAULTS["fp32"].max_batch_difference < DEFAULTS["fp16"].max_batch_difference


def test_an_empty_file_changes_nothing(written):
    assert load(written("# as they are\n[fp16]\n")) == DEFAULTS


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Tolerances)])
def test_a_file_changes_what_it_names_and_nothing_else(written, name):
    found = load(written(f"[fp16]\n{name} = 7.5\n"))
    assert found == DEFAULTS | {"fp16": dataclasses.replace(DEFAULTS["fp16"], **{name: 7.5})}


def test_both_precisions_can_be_changed_with_whole_numbers_and_with_none_at_all(written):
    found = load(written("fp32.max_difference = 0\nfp16.min_headroom = 2\n"))
    assert (found["fp32"].max_difference, found["fp16"].min_headroom) == (0, 2)
    assert found["fp32"].min_headroom == DEFAULTS["fp32"].min_headroom


def test_loading_a_file_leaves_the_defaults_alone(written):
    load(written("[fp32]\nmax_difference = 1\n"))
    assert load(None)["fp32"].max_difference < 1


KNOWN = "Known: max_accuracy_drop, max_batch_difference, max_difference, max_flip_margin, min_headroom"

REFUSED = {
    "[pf16]\nmax_difference = 1": "unknown precision 'pf16': did you mean 'fp16'? Known: fp16, fp32",
    "max_difference = 1": "unknown precision 'max_difference': did you mean",
    "[fp16]\nmax_diference = 1": f"[fp16] unknown tolerance 'max_diference': did you mean 'max_difference'? {KNOWN}",
    "[fp32]\nmin_hedroom = 1": f"[fp32] unknown tolerance 'min_hedroom': did you mean 'min_headroom'? {KNOWN}",
    "fp16 = 0.01": "[fp16] is 0.01; a table of max_difference, max_accuracy_drop, ",
    "fp32 = [1, 2]": "[fp32] is [1, 2]; a table of ",
    "[[fp32]]\nmax_difference = 1": "[fp32] is [{'max_difference': 1}]; a table of ",
    "[fp16]\nmax_difference = '0.1'": "[fp16] max_difference is '0.1'; a number from 0 was expected",
    "[fp16]\nmax_difference = true": "[fp16] max_difference is True; a number from 0 was expected",
    "[fp16]\nmax_difference = [0.1]": "[fp16] max_difference is [0.1]; a number from 0 was expected",
    "[fp16]\nmax_difference = 2026-01-01": "[fp16] max_difference is datetime.date(2026, 1, 1); a number from 0",
    "[fp16.max_difference]\nvalue = 1": "[fp16] max_difference is {'value': 1}; a number from 0 was expected",
    "[fp16]\nmax_difference = -0.001": "[fp16] max_difference is -0.001; a number from 0 was expected",
    "[fp16]\nmax_flip_margin = nan": "[fp16] max_flip_margin is nan; a number from 0 was expected",
    "[fp16]\nmax_flip_margin = inf": "[fp16] max_flip_margin is inf; a number from 0 was expected",
    "[fp16]\nmax_flip_margin = -inf": "[fp16] max_flip_margin is -inf; a number from 0 was expected",
    "[fp16]\nmin_headroom = 0": "[fp16] min_headroom is 0; a number from 1 was expected",
    "[fp16]\nmin_headroom = 0.99": "[fp16] min_headroom is 0.99; a number from 1 was expected",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=REFUSED.keys())
def test_what_a_file_may_not_say_is_refused_with_its_place(written, text, message):
    path = written(text)
    with pytest.raises(OptionError) as caught:
        load(path)
    assert str(caught.value).startswith(f"--tolerances {path}: {message}")


@pytest.mark.parametrize("text", ["[fp16", "max_difference: 0.1", "[fp16]\na = 1\na = 2", '{"fp16": {}}'])
def test_what_is_not_toml_is_refused_with_the_line(written, text):
    path = written(text)
    with pytest.raises(OptionError, match=r"tolerances\.toml is not TOML: .*\(at (line \d+|end of document)"):
        load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "tolerances.toml"
    path.write_bytes(b"\xff\xfe[\x00f\x00p\x00")
    with pytest.raises(OptionError, match="is not TOML"):
        load(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"nope\.toml: No such file or directory; a TOML file was expected"):
        load(tmp_path / "nope.toml")
    with pytest.raises(OptionError, match=r": Is a directory; a TOML file was expected"):
        load(tmp_path)


# Through the command


@pytest.fixture
def export(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`python -m export.to_onnx ARGUMENTS`: exit status, what it printed, and on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["to_onnx", *map(str, arguments)])
        status = to_onnx.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def tall(checkpoint, tmp_path_factory) -> Path:
    """`checkpoint` with one layer so large that the range check refuses it by default, and it alone."""
    good = checkpoints.load(checkpoint)
    weights = dict(good.weights)
    for name in ("9.weight", "9.bias"):
        weights[name] = weights[name] * 2**12
    weights["11.weight"] = weights["11.weight"] / 2**12
    path = tmp_path_factory.mktemp("tall") / "best.pt"
    checkpoints.save(path, dataclasses.replace(good, weights=weights))
    return path


def test_a_bundle_that_the_defaults_refuse_passes_with_wider_ones_which_are_recorded(export, tall, written, tmp_path):
    status, out, err = export(tall, "--output", tmp_path / "bundle")
    assert status == 1
    assert "error: nothing is published: range fp16: 1 layers give values up to " in err
    assert "at most 1.638e+04" in err

    status, out, _ = export(tall, "--output", tmp_path / "bundle", "--tolerances", written("[fp16]\nmin_headroom = 1"))
    assert status == 0
    assert "REFUSED" not in out
    report = json.loads((tmp_path / "bundle" / "parity.json").read_bytes())
    expected = {precision: dataclasses.asdict(bounds) for precision, bounds in DEFAULTS.items()}
    expected["fp16"]["min_headroom"] = 1
    assert report["tolerances"] == expected
    assert [check["findings"] for check in report["checks"]] == [[], [], [], []]


def test_a_bundle_that_the_defaults_pass_is_refused_with_narrower_ones(export, checkpoint, written, tmp_path):
    status, out, err = export(
        checkpoint, "--output", tmp_path / "bundle", "--tolerances", written("[fp16]\nmax_difference = 1e-9")
    )
    assert status == 1
    assert "onnx fp32    passed" in out
    assert "error: nothing is published: onnx fp16: a probability differs by " in err
    assert "at most 1e-09 is tolerated; torch fp16: " in err
    assert not (tmp_path / "bundle").exists()


def test_a_bad_file_ends_the_command_before_any_work(export, checkpoint, written, tmp_path):
    path = written("[fp61]\n")
    status, out, err = export(checkpoint, "--output", tmp_path / "bundle", "--tolerances", path)
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith(f"error: --tolerances {path}: unknown precision 'fp61': did you mean 'fp16'? Known: ")
    assert list(tmp_path.iterdir()) == [path]
