"""Options out of range, each refused with what was received and what was expected."""

import dataclasses
import json
from pathlib import Path

import pytest

from clients.access import Tls
from clients.benchmark import compare, document, engines, loadgen
from clients.benchmark.options import Options
from clients.benchmark.worker import _tls
from clients.errors import DigitError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": (0,)}, r"--concurrency is \(0,\)"),
        ({"rate": (0.0,)}, r"--rate is \(0\.0,\)"),
        ({"images": 0}, "--images is 0; 1 to 1,048,576 was"),
        ({"duration_s": 0.0}, "--duration-s is 0; 0.1 to"),
        ({"max_duration_s": 1.0}, "--max-duration-s is 1; 5 to"),
        ({"duration_s": 0.1, "windows": 20}, "--windows is 20; 2 to 10"),
        ({"windows": 3}, "--stable-windows is 5; 2 to 3"),
        ({"processes": 0}, "--processes is 0"),
        ({"processes": 4, "streams": 2}, "--streams is 2; 0, or one for each of 4 --processes"),
        ({"slo": "fast"}, "--slo is 'fast'"),
        ({"address": "here"}, "--address is 'here'; HOST:PORT"),
        ({"metrics_url": "file:///etc/passwd"}, "--metrics-url is"),
    ],
)
def test_options_out_of_range_are_refused_with_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_callers_and_the_search_are_the_default_where_nothing_else_is_asked_for():
    assert Options().callers == (1, 8, 64)
    assert Options(rate=(10.0,)).callers == ()
    assert Options(slo="p99=5ms").searches
    assert not Options(slo="p99=5ms", rate=(10.0,)).searches


def test_what_is_no_document_is_refused_with_its_name(tmp_path):
    (tmp_path / "a.json").write_text('{"levels": 1}')
    (tmp_path / "b.json").write_text('{"format": 99}')
    for name, message in (
        ("a.json", "nothing that"),
        ("b.json", "its format is 99; 1 was expected"),
        ("c.json", "cannot be read"),
    ):
        with pytest.raises(DigitError, match=f"{name}: {message}"):
            document.load(tmp_path / name)
    with pytest.raises(DigitError, match="cannot be read"):
        compare.main([str(tmp_path / "c.json"), str(tmp_path / "c.json")])


def test_engines_and_loadgen_refuse_what_they_cannot_use(tmp_path):
    with pytest.raises(ValueError, match="--rounds is 0"):
        engines.Options(bundle=tmp_path, rounds=0)
    with pytest.raises(ValueError, match="--rate is 0"):
        loadgen.Options(rate=0.0)
    with pytest.raises(DigitError, match="a bundle directory was expected"):
        engines.main([str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    "tls", [Tls(root=Path("a")), Tls(root=Path("a"), cert=Path("b"), key=Path("c"), server_name="d")]
)
def test_a_worker_is_told_the_files_of_an_encrypted_connection(tls):
    assert _tls(json.loads(json.dumps(dataclasses.asdict(tls), default=str))) == tls
