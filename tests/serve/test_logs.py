"""The log: lines that parse, that are lines, and that are not too many."""

import json
import logging
import re
import sys
from pathlib import Path

import grpc
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.logs import JsonFormatter, RateLimit, TextFormatter
from serve.process import server_process
from tests.fakes import images


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("serve.test")
    return logger.makeRecord(logger.name, logging.WARNING, "file", 1, message, arguments, None, extra=extra)


def failed_record(text: str) -> logging.LogRecord:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        failed = record("request failed")
        failed.exc_info = sys.exc_info()
    return failed


def test_json_has_time_level_logger_message_and_whatever_else_is_known() -> None:
    line = json.loads(JsonFormatter().format(record("%d is %s", 7, "seven", request_id="abc", images=3)))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert line == {
        "level": "warning",
        "logger": "serve.test",
        "message": "7 is seven",
        "request_id": "abc",
        "images": 3,
    }


def test_json_has_the_text_of_an_exception() -> None:
    line = json.loads(JsonFormatter().format(failed_record("no such device")))
    assert "Traceback" in line["exception"]
    assert line["exception"].endswith("RuntimeError: no such device")


def test_json_writes_what_json_does_not_know() -> None:
    assert json.loads(JsonFormatter().format(record("started", path=Path("a/b"))))["path"] == "a/b"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("evil", ["a\nERROR forged", "a\r\n", "\x1b[2J", "\x85", "\u2028", "\0"])
def test_no_text_makes_a_second_line_or_moves_the_cursor(formatter: logging.Formatter, evil: str) -> None:
    text = formatter.format(record("model %s is unknown", evil, peer=evil))
    assert len(text.splitlines()) == 1
    assert all(character.isprintable() for character in text)


def test_text_sets_a_traceback_apart_so_that_its_lines_cannot_be_taken_for_records() -> None:
    first, *rest = TextFormatter().format(failed_record("one\n2026-01-01T00:00:00.000Z ERROR forged")).splitlines()
    assert first.endswith("WARNING serve.test: request failed")
    assert len(rest) >= 4
    assert all(line.startswith("    ") for line in rest)


def test_text_tells_what_json_tells() -> None:
    text = TextFormatter().format(record("call", code="OK", images=3, reason=""))
    assert text.endswith("WARNING serve.test: call code=OK images=3")


def test_lines_beyond_the_rate_are_left_out_and_counted() -> None:
    now = [0.0]
    limit = RateLimit(clock=lambda: now[0])
    assert sum(limit.filter(record("x")) for _ in range(500)) == 100
    now[0] += 1
    lines = [each for each in (record("x") for _ in range(50)) if limit.filter(each)]
    assert len(lines) == 10
    assert json.loads(JsonFormatter().format(lines[0]))["lines_left_out"] == 400
    assert "lines_left_out" not in json.loads(JsonFormatter().format(lines[1]))
    now[0] += 1000
    assert sum(limit.filter(record("x")) for _ in range(500)) == 100


def test_what_ends_service_is_never_left_out() -> None:
    limit = RateLimit(clock=lambda: 0.0)
    while limit.filter(record("x")):
        pass
    fatal = record("an engine thread died")
    fatal.levelno = logging.CRITICAL
    assert limit.filter(fatal)


def test_one_loggers_lines_do_not_cost_another_its_own() -> None:
    limit = RateLimit(clock=lambda: 0.0)
    while limit.filter(record("x")):
        pass
    other = record("x")
    other.name = "serve.other"
    assert limit.filter(other)


def test_a_servers_whole_log_is_json_and_garbage_does_not_fill_the_disk(bundle: Path, tmp_path: Path) -> None:
    flags = ("--log-format", "json", "--access-log", "1")
    with (
        server_process(bundle, *flags, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)
        good = digits_pb2.ClassifyRequest(pixels=images(3).tobytes())
        stub.Classify(good, metadata=[("x-request-id", "mine-1")])
        garbage = channel.unary_unary("/digits.v1.DigitRecognizer/Classify")
        for _ in range(10):
            futures = [garbage.future(b"\xff\n" * 9, timeout=30) for _ in range(100)]
            assert {future.code() for future in futures} == {grpc.StatusCode.INVALID_ARGUMENT}
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    calls = [line for line in lines if line["message"] == "call"]
    assert 100 <= len(calls) < 400
    assert len(lines) < len(calls) + 10
    first = calls[0]
    assert (first["code"], first["model"], first["images"], first["request_id"]) == ("OK", "compact", 3, "mine-1")
    assert first["method"] == "digits.v1.DigitRecognizer/Classify"
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert 0 < first["compute_ms"] < first["total_ms"]
    assert first["queue_ms"] > 0
    assert calls[1]["code"] == "INVALID_ARGUMENT"
    assert calls[1]["reason"] == "invalid_request"
    assert len({call["request_id"] for call in calls}) == len(calls)
