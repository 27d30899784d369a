"""Lines of the log: for people or as JSON, one line a record, and no more than a disk bears."""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

# Of each logger: at once, and a second in the long run. Callers can cause lines, and must not fill a disk with them.
_BURST = 100
_LINES_PER_S = 10.0

# What would end a line, or move a terminal's cursor.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


def configure(style: Literal["text", "json"], level: str) -> None:
    """Send this process's log to standard error."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    to_stderr.addFilter(RateLimit())
    logging.basicConfig(level=level.upper(), handlers=[to_stderr])


class TextFormatter(logging.Formatter):
    """A line for people. An exception's traceback follows on lines of its own, each indented."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        text = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        text += "".join(f" {name}={value}" for name, value in _extra(record).items())
        lines = [text.translate(_CONTROL)]
        if trace := _trace(self, record):
            lines += ["    " + line.translate(_CONTROL) for line in trace.splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """A JSON object: time (RFC 3339, UTC), level, logger, message, then what the record has besides."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(line, default=str)


class RateLimit(logging.Filter):
    """Bounds every logger's lines; how many were left out is said with the next one.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # Of each logger, whose names are the program's own: lines it may still write, since when, and lines left out.
        self._loggers: dict[str, tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        now = self._clock()
        allowance, since, left_out = self._loggers.get(record.name, (_BURST, now, 0))
        allowance = min(_BURST, allowance + (now - since) * _LINES_PER_S)
        # What ends service is said in any case.
        passes = allowance >= 1 or record.levelno >= logging.CRITICAL
        self._loggers[record.name] = (max(0.0, allowance - passes), now, 0 if passes else left_out + 1)
        if passes and left_out:
            record.lines_left_out = left_out
        return passes


_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value != ""}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
