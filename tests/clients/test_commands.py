"""`python -m clients.classify` as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clients import DigitClient

ROOT = Path(__file__).resolve().parents[2]


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
