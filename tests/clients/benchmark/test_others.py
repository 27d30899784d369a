"""The commands `engines` and `loadgen`."""

import json

import pytest

from clients.benchmark import engines
from tests.clients.test_commands import run


def test_every_engine_that_can_run_is_timed_and_the_others_are_named(bundle, tmp_path, capsys):
    words = [
        str(bundle),
        "--checkpoint",
        str(bundle.with_suffix(".pt")),
        "--rounds",
        "2",
        "--duration-s",
        "0.01",
        "--batch",
        "1",
        "4",
    ]
    assert engines.main([*words, "--json", str(tmp_path / "engines.json")]) == 0
    result = json.loads((tmp_path / "engines.json").read_text())
    timed = {(each["engine"], each["batch"]) for each in result["timings"]}
    assert {(name, size) for name in ("onnxruntime", "pytorch") for size in (1, 4)} <= timed
    assert "the bundle has no model.int8.onnx" in result["absent"]["onnxruntime-int8"]
    for each in result["timings"]:
        assert 0 < each["lowest_ms"] <= each["median_ms"] <= each["highest_ms"]
        assert each["images_per_s"] == pytest.approx(1e3 * each["batch"] / each["median_ms"])
    out = capsys.readouterr().out
    assert "onnxruntime-int8: " in out
    assert "--engine" not in out, "a flag of another program"


@pytest.mark.parametrize("scenario", ["SingleStream", "Server", "Offline"])
def test_loadgens_scenarios_run_against_the_server_and_are_marked_unofficial(address, tmp_path, scenario):
    flags = ("--scenario", scenario, "--rate", 100, "--duration-s", 0.3, "--slo-ms", 10_000)
    done = run("benchmark", "loadgen", "--address", address, *flags, "--json", tmp_path / "a.json")
    assert "UNOFFICIAL" in done.stdout, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["scenario"], result["official"], result["failures"]) == (scenario, False, {})
    assert result["figures"]["99.00 percentile latency (ns)"] > 0
    assert done.returncode == (0 if result["valid"] else 1)
