"""`make bench` in parts: the server that does nothing, streams under h2load, medians, and the table."""

import shutil
from pathlib import Path

import grpc
import pytest

from benchmarks import serving
from benchmarks.measurement import Measurement
from benchmarks.report import serving_table
from benchmarks.serving import CONFIGURATIONS, NETWORKS, OPEN_LOOP
from serve.process import module_process, server_process


def test_the_echo_server_answers_every_method_with_what_it_was_given(tmp_path: Path) -> None:
    with (
        module_process("benchmarks.echo", b"reply".hex(), log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert [channel.unary_unary(method)(b"anything", timeout=20) for method in ("/a/b", "/c/d")] == [b"reply"] * 2


@pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
def test_calls_and_messages_are_counted_as_the_server_answers_them(bundle: Path, tmp_path: Path) -> None:
    with server_process(bundle, log=tmp_path / "log") as server:
        counted = serving._closed(server, serving.CALLERS, requests=640)
        single = serving._closed(server, serving.ONE_CALLER, duration_s=1)
        stream = serving._stream(server, 1)
    assert counted.answered == 640
    assert single.answered == pytest.approx(single.answered_per_s)
    # One caller waits for every answer; four streams keep many under way.
    assert stream.answered > single.answered
    assert stream.answered_per_s == pytest.approx(stream.answered, abs=1)


def test_medians_are_of_figures_alone() -> None:
    seen = Measurement(answered=1, answered_per_s=1.0)
    repeats: list[serving.Results] = [{"seen": seen, "rate": rate} for rate in (3.0, 1.0, 2.0)]
    assert serving.medians(repeats) == {"rate": 2.0}


def test_the_table_names_the_best_configuration_and_the_extent_of_each_figure() -> None:
    rates = {f"{network}, {name}, requests/s": 1000.0 for network in NETWORKS for name in CONFIGURATIONS}
    rates["lenet_bn, one front end, one slot, requests/s"] = 1001.0
    figures = dict.fromkeys(_names(), 0.5) | rates
    low, high = figures | {"1 caller, p50 ms": 0.25}, figures | {"1 caller, p50 ms": 0.75}
    result = {
        "conditions": {"cores": 2, "cpu": "some processor", "versions": {"onnxruntime": "1.0"}},
        "medians": figures,
        "repeats": [high, low, figures],
    }
    table = serving_table(result).splitlines()
    assert table[0] == "| one server on 2 cores of some processor, ONNX Runtime 1.0 | median | lowest to highest |"
    assert "| `compact`, one caller, one image a request: median latency | 0.50 ms | 0.25 to 0.75 |" in table
    assert (
        "| `lenet_bn`, 64 callers, served best, by one front end, one slot | 1,001 requests/s | 1,001 to 1,001 |"
        in table
    )


def _names() -> list[str]:
    """All figures that the table may show."""
    names = ["1 caller, p50 ms", "64 callers, requests/s", "64 callers, share of the echo server"]
    names += ["4 streams, messages/s", "4 streams, times 64 callers", "64-image requests, images/s"]
    names += [f"64-image requests, share of {name}" for name in ("stock session", "session per core")]
    for network, images in OPEN_LOOP:
        name = f"{network}, {images} a request"
        names += [f"{name}, Poisson, {figure}" for figure in ("p99 ms", "p99 in engine calls")]
        names += [f"{name}, Poisson, images of the average engine call", f"{name}, overload, share of capacity"]
        names += [f"{name}, overload, few pending, share of capacity"]
    return [*names, "resident MB after 10,000 images", "resident memory, growth"]
