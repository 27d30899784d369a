"""`python -m clients.benchmark` as a user runs it, against real servers."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import psutil
import pytest
from PIL import Image

from benchmarks.stalling import expected_ms
from clients.benchmark import document
from clients.benchmark.document import Document
from clients.benchmark.table import WIDTH
from serve.process import module_process
from tests.clients.test_commands import ROOT, run

QUICK = ("--duration-s", 0.3, "--max-duration-s", 0.3, "--warmup-s", 0.1, "--floor-s", 0)


def measure(path: Path, *arguments: object, status: int = 0) -> tuple[Document, str]:
    done = run("benchmark", *arguments, "--json", path)
    assert done.returncode == status, done.stdout + done.stderr
    return document.load(path), done.stdout


@pytest.fixture(scope="module")
def everything(address, tmp_path_factory) -> tuple[Document, str, Path]:
    """One short benchmark with all there is to it, by two processes."""
    folder = tmp_path_factory.mktemp("benchmark")
    loops = ("--concurrency", 1, 4, "--rate", 200, "--arrivals", "fixed", "--slo", "p90=2s", "--processes", 2)
    quick = ("--duration-s", 0.4, "--max-duration-s", 0.4, "--warmup-s", 0.1, "--floor-s", 0.2)
    files = ("--plots", folder / "plots")
    found, text = measure(folder / "a.json", "--address", address, "--images", 2, *loops, *quick, *files)
    return found, text, folder


def test_the_document_is_what_its_schema_says(everything):
    found, _, folder = everything
    schema = json.loads((ROOT / "clients/benchmark/document.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    plain = json.loads((folder / "a.json").read_text())
    jsonschema.validate(plain, schema)
    assert plain == json.loads(json.dumps(dataclasses.asdict(found)))
    del plain["levels"][0]["latency"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema)


def test_every_loop_is_measured_and_every_request_accounted_for(everything, address):
    found, _, _ = everything
    assert found.options["address"] == address
    assert found.server["name"] == "compact"
    assert [level.name for level in found.floor] == ["1 caller", "4 callers"]
    assert [level.name for level in found.levels] == ["1 caller", "4 callers", "200/s"]
    for level in found.levels:
        assert level.seconds == pytest.approx(0.4)
        assert level.errors == {}
        assert level.due == level.answered == level.latency.count == sum(window.due for window in level.windows)
        assert len(level.windows) == 10
        assert level.images_per_s == pytest.approx(2 * level.requests_per_s)
        assert level.goodput.within == 1
        assert level.server.mean_batch >= 2
        assert sum(level.server.batches.values()) == pytest.approx(1)
        assert level.server_usage.processes == 1
        assert level.server_usage.resident_mb > 10
        assert level.client_usage.processes == 2


def test_the_open_loop_sends_as_planned_and_shows_both_latencies_and_their_gap(everything):
    found, text, _ = everything
    opened = found.levels[-1]
    assert opened.due == pytest.approx(80, abs=1)  # one at each end may fall to either side
    assert opened.latency.mean_ms == pytest.approx(opened.service.mean_ms + opened.late.mean_ms, rel=0.01)
    for words in ("due → answer", "sent → answer", "due → sent"):
        assert words in text


def test_the_table_shows_what_the_document_holds(everything):
    found, text, _ = everything
    assert text.index("The load generator itself") < text.index(found.options["address"])
    for level in found.levels:
        assert f"{level.requests_per_s:,.0f}" in text
    assert "after 0.1 s of warm-up" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_three_figures_are_drawn(everything):
    for name in ("latency", "throughput", "windows"):
        with Image.open(everything[2] / "plots" / f"{name}.png") as figure:
            assert figure.size == (1080, 660)
            assert len(figure.convert("RGB").getcolors(1 << 20)) > 50


def test_a_benchmark_compared_with_itself_shows_no_difference(everything):
    path = everything[2] / "a.json"
    done = run("benchmark", "compare", path, path, "--exit-code")
    assert done.returncode == 0
    assert done.stdout.count("within noise") == 9


@pytest.mark.parametrize("protocol", ["digits", "inference"])
def test_streams_and_both_protocols_can_be_measured_in_both_loops(address, tmp_path, protocol):
    streams = ("--streams", 2, "--images", 3, "--concurrency", 4, "--rate", 100)
    found, _ = measure(tmp_path / "a.json", "--address", address, "--protocol", protocol, *streams, *QUICK)
    assert [level.errors for level in found.levels] == [{}, {}]
    for level in found.levels:
        assert level.answered > 0
        assert level.server.mean_batch >= 3


def test_failures_are_counted_by_code_with_what_was_said_and_miss_the_slo(address, tmp_path):
    hopeless = ("--images", 1024, "--timeout-s", 0.002, "--rate", 50, "--slo", "p50=1s")
    found, text = measure(tmp_path / "a.json", "--address", address, *hopeless, *QUICK, status=1)
    (level,) = found.levels
    # Refused because the answer would come too late, given up when it had, or too late to be sent at all.
    assert level.errors
    assert level.errors.keys() <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "NOT_SENT"}
    assert (level.answered, level.latency.count, sum(level.errors.values())) == (0, 0, level.due)
    assert (level.goodput.within, level.goodput.met) == (0, False)
    for code, count in level.errors.items():
        assert re.search(rf"50/s +{count} +[\d.]+% +{code}", text)


def test_a_stall_shows_from_when_requests_were_due_and_hides_from_callers_who_wait(tmp_path):
    stalling = ("1000", "50", "1")
    with module_process("benchmarks.stalling", *stalling, log=tmp_path / "log") as server:
        loops = ("--concurrency", 1, "--rate", 300, "--duration-s", 2, "--max-duration-s", 2)
        quick = ("--warmup-s", 0.1, "--floor-s", 0)
        found, _ = measure(tmp_path / "a.json", "--address", server.address, *loops, *quick)
    closed, opened = found.levels
    planned = opened.latency.percentiles["p99"].value_ms
    assert planned > 0.7 * expected_ms(0.99, *map(float, stalling))
    # One request in a second waits for the stall, of some hundreds that are sent because none before had to wait.
    assert closed.latency.max_ms > 40
    assert closed.latency.percentiles["p99"].value_ms < 0.7 * planned


@pytest.mark.parametrize("streams", [0, 2])
def test_what_is_due_faster_than_it_can_be_sent_is_counted_all_the_same(address, tmp_path, streams):
    flood = ("--rate", 50_000, "--arrivals", "fixed", "--timeout-s", 0.1, "--streams", streams)
    found, text = measure(tmp_path / "a.json", "--address", address, *flood, *QUICK, status=1)
    (level,) = found.levels
    assert level.due == level.answered + sum(level.errors.values()) == pytest.approx(15_000, abs=1)
    assert level.errors["NOT_SENT"] > 0
    assert "more --processes can help" in text


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "clients.benchmark", *map(str, arguments)]


def test_ctrl_c_shows_what_was_measured_so_far_and_ends_with_130(address, tmp_path):
    levels = ("--concurrency", 1, 2, 3, "--duration-s", 0.3, "--warmup-s", 0.1, "--floor-s", 0)
    with subprocess.Popen(
        words("--address", address, *levels, "--json", tmp_path / "a.json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("1 caller:")
        assert process.stderr.readline().startswith("2 callers:")
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = document.load(tmp_path / "a.json")
    assert found.interrupted
    first, second = found.levels
    assert (first.interrupted, second.interrupted) == (False, True)
    assert first.answered > 0
    assert "Interrupted: this is what was measured so far." in text


def test_what_was_measured_before_a_process_died_is_shown_and_the_status_is_1(address, tmp_path):
    levels = ("--concurrency", 1, 2, "--duration-s", 0.3, "--max-duration-s", 0.3, "--warmup-s", 0.1, "--floor-s", 0)
    with subprocess.Popen(
        words("--address", address, *levels, "--json", tmp_path / "a.json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("1 caller:")
        assert process.stderr.readline().startswith("2 callers:")
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        text, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert complaint.startswith("error: a process that drives the load has died")
    assert [level.callers for level in document.load(tmp_path / "a.json").levels] == [1]
    assert "1 caller" in text


def test_a_benchmark_without_a_server_ends_before_it_measures_with_one_line(free_address):
    done = run("benchmark", "--address", free_address, "--concurrency", 1, *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {free_address}: UNAVAILABLE: ")


def test_a_server_of_another_protocol_is_named_as_such(obedient):
    done = run("benchmark", "--address", obedient.address, "--protocol", "inference", *QUICK)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {obedient.address}: this server does not speak the protocol 'inference'; try --protocol digits\n"
    )


def test_more_images_than_the_server_takes_are_refused_before_anything_is_measured(address):
    done = run("benchmark", "--address", address, "--images", 1025, *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --images is 1025; this server accepts at most 1024 in a request\n"
