"""`python -m clients.classify` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

import imaging
from clients import DigitClient
from clients.classify import find
from tests.clients.test_commands import ROOT
from tests.imaging.drawing import CORNERS, encoded, page, stroke


def classify(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "clients.classify", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def drawn(digit: int) -> bytes:
    return encoded(stroke(page(120, 160), digit, left=50, top=20, size=80, pen=6, ink=30))


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Three picture files, the digits 2, 4 and 5."""
    paths = [tmp_path / f"{digit}.png" for digit in (2, 4, 5)]
    for path in paths:
        path.write_bytes(drawn(int(path.stem)))
    return paths


def test_each_picture_gets_a_line_with_its_digit(address, pictures):
    with DigitClient(address) as client:
        pixels = [imaging.read(path.read_bytes())[0].pixels for path in pictures]
        expected = client.classify(np.stack(pixels)).predictions
    status, out, err = classify(*pictures, "--address", address)
    assert (status, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == ["picture", "digit", "probability", "candidates"]
    for line, path, prediction in zip(lines, pictures, expected, strict=True):
        picture, digit, probability, candidates = line.split(maxsplit=3)
        assert (picture, int(digit)) == (str(path), prediction.digit)
        assert float(probability.rstrip("%")) == pytest.approx(100 * prediction.probability, abs=0.02)
        assert len(candidates.split("(")[0].split(", ")) == 3


def test_json_is_one_object_per_picture_errors_too(address, pictures, tmp_path):
    (tmp_path / "letter.png").write_text("a letter, not a picture")
    status, out, err = classify(*pictures, tmp_path / "letter.png", "--json", "--address", address)
    assert (status, len(err.splitlines())) == (1, 1)
    *answers, failed = map(json.loads, out.splitlines())
    assert [each["path"] for each in answers] == [str(path) for path in pictures]
    for answer in answers:
        (digit,) = answer["digits"]
        assert digit.keys() == {"line", "digit", "probability", "candidates", "box", "warnings"}
        assert digit["candidates"][0] == {"digit": digit["digit"], "probability": digit["probability"]}
        assert 40 < digit["box"]["left"] < 80
    assert failed["error"].startswith("no picture that can be read")


def test_a_folder_is_searched_and_other_files_in_it_are_passed_over(address, pictures, tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    pictures[0].rename(deep / "2.PNG")
    (tmp_path / "notes.txt").write_text("not called a picture")
    status, out, err = classify(tmp_path, "--json", "--address", address)
    assert (status, err) == (0, "")
    found = {Path(json.loads(line)["path"]).name for line in out.splitlines()}
    assert found == {"2.PNG", "4.png", "5.png"}


def test_a_folder_is_read_by_name_and_one_with_too_many_entries_as_the_disk_has_it(tmp_path, monkeypatch):
    names = [f"{number}.png" for number in (7, 3, 10, 1)]
    (tmp_path / "2").mkdir()
    for folder in (tmp_path, tmp_path / "2"):
        for name in names:
            (folder / name).touch()
    by_name = ["1.png", "10.png", "2/1.png", "2/10.png", "2/3.png", "2/7.png", "3.png", "7.png"]
    assert [str(path.relative_to(tmp_path)) for path in find([tmp_path])] == by_name
    monkeypatch.setattr("clients.classify.MOST_SORTED", 4)
    entries = [entry.name for entry in os.scandir(tmp_path)]
    found = [path.relative_to(tmp_path) for path in find([tmp_path])]
    assert list(dict.fromkeys(path.parts[0] for path in found)) == entries
    assert [str(path) for path in found if path.parts[0] == "2"] == by_name[2:6]


def test_a_folder_is_read_as_it_is_walked(pictures, tmp_path, monkeypatch):
    listed = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scan(folder))
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    paths = find([pictures[0], tmp_path])
    assert next(paths) == pictures[0]
    assert listed == []


def test_standard_input_is_a_picture_too(address):
    status, out, err = classify("-", "--json", "--address", address, stdin=drawn(4))
    assert (status, err) == (0, "")
    assert json.loads(out)["path"] == "-"


def test_many_digits_of_a_picture_are_listed_from_the_left(address, tmp_path):
    picture = page(200, 500)
    for index, digit in enumerate(CORNERS):
        stroke(picture, digit, left=30 + 90 * index, top=50, size=80, pen=6, ink=30)
    (tmp_path / "row.png").write_bytes(encoded(picture))
    status, out, err = classify(tmp_path / "row.png", "--many", "--json", "--address", address)
    assert (status, err) == (0, "")
    lefts = [each["box"]["left"] for each in json.loads(out)["digits"]]
    assert len(lefts) == len(CORNERS)
    assert lefts == sorted(lefts)
    status, out, _ = classify(tmp_path / "row.png", "--many", "--address", address)
    assert len(out.splitlines()[1].split()[1]) == len(CORNERS)


def test_lines_of_digits_stay_lines(address, tmp_path):
    picture = page(400, 500)
    for left, top, digit in ((40, 60, 2), (150, 70, 4), (140, 250, 5), (260, 240, 7), (370, 250, 4)):
        stroke(picture, digit, left=left, top=top, size=80, pen=6, ink=30)
    (tmp_path / "page.png").write_bytes(encoded(picture))
    _, out, _ = classify(tmp_path / "page.png", "--many", "--json", "--address", address)
    assert [each["line"] for each in json.loads(out)["digits"]] == [0, 0, 1, 1, 1]
    _, out, _ = classify(tmp_path / "page.png", "--many", "--address", address)
    first, slash, second = out.splitlines()[1].split()[1:4]
    assert (len(first), slash, len(second)) == (2, "/", 3)


def test_an_answer_that_the_network_is_not_sure_of_comes_with_a_warning(obedient, pictures):
    obedient.probabilities = [0.11] + [0.0] * 8 + [0.89]
    _, out, _ = classify(pictures[0], "--address", obedient.address)
    assert out.splitlines()[1].endswith("(low confidence)")
    _, out, _ = classify(pictures[0], "--json", "--address", obedient.address)
    assert json.loads(out)["digits"][0]["warnings"] == ["low_confidence"]
    obedient.probabilities = [0.09] + [0.0] * 8 + [0.91]
    _, out, _ = classify(pictures[0], "--address", obedient.address)
    assert "confidence" not in out


def test_figures_are_written_where_they_were_asked_for(address, pictures, tmp_path):
    out = tmp_path / "out"
    one = classify(pictures[0], "--explain", out / "e.png", "--annotate", out / "a.webp", "--address", address)
    assert one[0] == 0, one[2]
    with Image.open(out / "a.webp") as annotated, Image.open(out / "e.png") as explained:
        assert annotated.size == (160, 120)
        assert explained.width > 600
    several = classify(*pictures, "--annotate", out / "all", "--address", address)
    assert several[0] == 0, several[2]
    assert sorted(path.name for path in (out / "all").rglob("*.png")) == ["2.png.png", "4.png.png", "5.png.png"]


def test_a_figure_is_not_written_over_that_of_another_picture(address, pictures, tmp_path):
    again = Path("/..", *pictures[0].parts[1:])
    status, out, err = classify(pictures[0], again, "--annotate", tmp_path / "out", "--address", address)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (1, 3, 1)
    assert err.startswith(f"error: {again}: its figure cannot be written: {tmp_path / 'out'}")
    assert f"is that of {pictures[0]}; draw one of the two elsewhere" in err


def test_a_figure_is_written_neither_over_its_picture_nor_over_the_other_figure(address, pictures, tmp_path):
    before = pictures[0].read_bytes()
    status, out, err = classify(pictures[0], "--annotate", pictures[0], "--address", address)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (1, 2, 1)
    assert f"{pictures[0]} is the picture itself; write it elsewhere" in err
    assert pictures[0].read_bytes() == before
    figure = tmp_path / "a.png"
    status, _, err = classify(pictures[0], "--annotate", figure, "--explain", figure, "--address", address)
    assert (status, err) == (1, f"error: --annotate and --explain are both {figure}; name two places\n")
    assert not figure.exists()


def test_a_folder_that_exists_takes_the_figure_of_a_single_picture(address, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert classify(pictures[0], "--annotate", out, "--address", address)[0] == 0
    assert [path.name for path in out.rglob("*.png")] == ["2.png.png"]


def test_a_name_stays_on_its_line_and_commands_no_terminal(address, pictures, tmp_path):
    read, unread = tmp_path / "a\nb é\x1b[2J.png", tmp_path / "c\n\x1b[2J.png"
    pictures[0].rename(read)
    status, out, err = classify(read, unread, "--address", address)
    assert (status, len(out.splitlines()), len(err.splitlines())) == (1, 2, 1)
    assert "a\\nb é\\x1b[2J.png" in out
    assert "\x1b" not in out + err


def test_a_name_that_is_no_text_is_named_all_the_same(address, pictures, tmp_path):
    odd = pictures[0].rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    status, out, err = classify(odd, "--address", address)
    assert (status, err) == (0, "")
    assert "caf\\udce9.png" in out
    status, out, err = classify(odd, "--json", "--address", address)
    assert (status, err) == (0, "")
    assert json.loads(out)["path"] == str(odd)


def test_a_figure_of_no_known_kind_is_an_error_of_its_picture(address, pictures, tmp_path):
    status, out, err = classify(pictures[0], "--annotate", tmp_path / "a.xyz", "--address", address)
    assert (status, len(out.splitlines())) == (1, 2)
    assert "its figure cannot be written: unknown file extension: .xyz" in err


# What goes wrong


def test_ctrl_c_ends_the_wait_for_standard_input(obedient, pictures):
    command = [sys.executable, "-m", "clients.classify", pictures[0], "-", "--address", obedient.address]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline().startswith(b"picture")
            assert process.stdout.readline().startswith(os.fsencode(pictures[0]))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
        assert process.stderr.read() == b"interrupted\n"


def test_standard_input_that_is_closed_cannot_be_read(obedient):
    command = [sys.executable, "-m", "clients.classify", "-", "--address", obedient.address]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    ended = subprocess.run(closed, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, "error: -: cannot be read: Bad file descriptor\n")


def test_what_cannot_be_read_is_named_and_the_rest_classified(address, pictures, tmp_path):
    bad = {
        "letter.png": b"a letter, not a picture",
        "empty.png": b"",
        "half.jpg": encoded(page(300, 300, grain=20), "JPEG")[:5000],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    bad_paths = [tmp_path / name for name in (*bad, "nope.png")]
    paths = [path for pair in zip(bad_paths, [*pictures, pictures[0]], strict=True) for path in pair]
    status, out, err = classify(*paths, "--address", address)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()[1:]] == [str(path) for path in paths[1::2]]
    assert [line.split(": ", 2)[1:] for line in err.splitlines()] == [
        [str(bad_paths[0]), "no picture that can be read; PNG, JPEG, WebP, BMP, TIFF or GIF is expected"],
        [str(bad_paths[1]), "it is empty; a picture file was expected"],
        [str(bad_paths[2]), err.splitlines()[2].split(": ", 2)[2]],
        [str(bad_paths[3]), "cannot be read: No such file or directory"],
    ]
    assert "truncated" in err.splitlines()[2]


def test_a_link_that_leads_nowhere_hides_none_of_its_folder(address, pictures, tmp_path):
    (tmp_path / "3.png").symlink_to("3.png")
    status, out, err = classify(tmp_path, "--address", address)
    assert (status, [line.split()[0] for line in out.splitlines()[1:]]) == (1, [str(path) for path in pictures])
    assert err == f"error: {tmp_path / '3.png'}: cannot be read: Too many levels of symbolic links\n"


def test_a_picture_without_a_digit_is_no_failure(address, tmp_path):
    (tmp_path / "blank.png").write_bytes(encoded(page()))
    status, out, err = classify(tmp_path / "blank.png", "--address", address)
    assert (status, err) == (0, "")
    assert "no digit found" in out


def test_without_a_server_there_is_one_line_that_names_the_address_whatever_there_is_to_do(free_address, tmp_path):
    for index in range(200):
        (tmp_path / f"{index}.png").write_bytes(drawn(4))
    status, out, err = classify(tmp_path, "--address", free_address, "--timeout-s", 2)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert free_address in err


def test_a_server_that_is_away_for_a_moment_is_waited_for(obedient, pictures):
    obedient.statuses = [grpc.StatusCode.UNAVAILABLE] * 12
    status, out, err = classify(*pictures, "--address", obedient.address, "--timeout-s", 20)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 4


def test_a_server_that_fails_on_everything_is_left_after_a_few_pictures(obedient, tmp_path):
    for index in range(100):
        (tmp_path / f"{index}.png").write_bytes(drawn(4))
    obedient.statuses = [grpc.StatusCode.INTERNAL] * 1000
    status, out, err = classify(tmp_path, "--address", obedient.address)
    assert (status, out) == (1, "")
    assert 1 < len(err.splitlines()) < 5
    assert len(obedient.calls) < 100


def test_without_pictures_it_says_what_to_name(tmp_path):
    assert classify() == (1, "", "error: no pictures were named; name at least one file or folder\n")


def test_an_empty_folder_is_said_to_be_empty(tmp_path, address):
    status, out, err = classify(tmp_path, "--address", address)
    assert (status, out) == (1, "")
    assert err == f"error: {tmp_path}: there is no picture in it\n"
