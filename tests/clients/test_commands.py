"""`python -m clients.classify` and `python -m clients.benchmark` as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clients import DigitClient
from clients.benchmark import PERCENTILES

ROOT = Path(__file__).resolve().parents[2]

QUICK = ("--duration-s", "0.3", "--warmup-s", "0.1")


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"clients.{module}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def pictures(tmp_path, images) -> list[Path]:
    """Three picture files."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, pixels in zip(paths, images // 2, strict=False):
        Image.fromarray(pixels).save(path)
    return paths


# classify


def test_each_picture_gets_a_line_with_its_digit(address, pictures, images):
    with DigitClient(address) as client:
        expected = client.classify(images[:3] // 2).predictions
    done = run("classify", *pictures, "--address", address)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["picture", "digit", "probability", "candidates"]
    for line, path, prediction in zip(lines, pictures, expected, strict=True):
        picture, digit, probability, candidates = line.split(maxsplit=3)
        assert (picture, int(digit)) == (str(path), prediction.digit)
        assert float(probability.rstrip("%")) == pytest.approx(100 * prediction.probability, abs=0.02)
        assert len(candidates.split(", ")) == 3


def test_a_missing_picture_and_a_text_are_named_and_the_others_classified(address, pictures, tmp_path):
    (tmp_path / "letter.png").write_text("a letter, not a picture")
    done = run(
        "classify", tmp_path / "nope.png", pictures[0], tmp_path / "letter.png", pictures[1], "--address", address
    )
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [str(pictures[0]), str(pictures[1])]
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'nope.png'}: cannot be read: No such file or directory",
        f"error: {tmp_path / 'letter.png'}: no picture that can be read; PNG, JPEG, WebP, BMP, TIFF or GIF is expected",
    ]


def test_classify_without_a_server_ends_with_one_line_that_names_the_address(free_address, pictures):
    done = run("classify", *pictures, "--address", free_address, "--timeout-s", 10)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {free_address}: UNAVAILABLE: ")
    assert len(done.stderr.splitlines()) == 1


def test_more_candidates_than_digits_are_refused(address, pictures):
    done = run("classify", pictures[0], "--address", address, "--top-k", 11)
    assert (done.returncode, done.stderr) == (1, "error: --top-k is 11; 1 to 10 was expected\n")


def test_classify_without_pictures_says_what_to_name():
    done = run("classify")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no pictures were named; name at least one file\n"


# benchmark


@pytest.fixture(scope="module")
def measured(address) -> subprocess.CompletedProcess[str]:
    """One short benchmark at two numbers of callers."""
    return run("benchmark", "--address", address, "--concurrency", 1, 4, "--images", 2, *QUICK)


def test_a_benchmark_without_failures_ends_with_zero(measured):
    assert measured.returncode == 0, measured.stderr


def test_the_last_line_is_one_document_with_conditions_and_measurements(measured, address):
    document = json.loads(measured.stdout.splitlines()[-1])
    assert document["options"]["address"] == address
    assert document["options"]["images"] == 2
    assert document["model"]["name"] == "compact"
    assert {"cores", "machine", "python", "grpcio"} <= document["client"].keys()
    assert [level["concurrency"] for level in document["levels"]] == [1, 4]
    for level in document["levels"]:
        latencies = [level["latency_ms"][name] for name in PERCENTILES]
        assert latencies == sorted(latencies)
        assert latencies[0] > 0
        assert level["requests"] == pytest.approx(level["requests_per_s"] * 0.3)
        assert level["images_per_s"] == pytest.approx(2 * level["requests_per_s"])
        assert level["mean_batch"] >= 2
        assert level["errors"] == {}


def test_the_table_shows_what_the_document_holds(measured):
    head, *rows, last = measured.stdout.splitlines()
    assert head.split()[:3] == ["callers", "requests", "requests/s"]
    assert len({len(line) for line in (head, *rows)}) == 1
    for row, level in zip(rows, json.loads(last)["levels"], strict=True):
        cells = row.split()
        assert cells[:2] == [str(level["concurrency"]), f"{level['requests']:,}"]
        assert cells[4] == f"{level['latency_ms']['p50']:.2f}"
        assert cells[-1] == "none"


def test_failed_calls_are_counted_by_code_and_end_the_command_with_one(address):
    done = run("benchmark", "--address", address, "--concurrency", 1, "--images", 1024, *QUICK, "--timeout-s", 0.002)
    assert done.returncode == 1
    [level] = json.loads(done.stdout.splitlines()[-1])["levels"]
    # Refused because the answer would come too late, or given up when it had.
    assert level["errors"]
    assert level["errors"].keys() <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert (level["requests"], level["latency_ms"]) == (0, {})
    for code, count in level["errors"].items():
        assert f"{code} {count}" in done.stdout


def test_more_images_than_the_server_takes_are_refused_before_anything_is_measured(address):
    done = run("benchmark", "--address", address, "--images", 1025, *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: --images is 1025; this server accepts at most 1024 in a request" in done.stderr


def test_a_benchmark_without_a_server_ends_with_one_and_names_the_address(free_address):
    done = run("benchmark", "--address", free_address, "--concurrency", 1, *QUICK)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"error: {free_address}: UNAVAILABLE: ")
    assert "Traceback" not in done.stderr


def test_a_benchmark_without_a_server_ends_before_it_measures(free_address):
    done = run("benchmark", "--address", free_address, "--concurrency", 1, *QUICK)
    assert "callers" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", 0), "--concurrency is (0,)"),
        (("--images", 0), "--images is 0; at least 1"),
        (("--duration-s", 0), "--duration-s 0.0"),
    ],
)
def test_options_out_of_range_are_refused_with_a_message(arguments, message):
    done = run("benchmark", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
