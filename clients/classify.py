"""`python -m clients.classify PATH…`: print the digits in pictures.

Files, folders with all that is below them, and `-` for standard input. Folders are read by name, but one of more than
ten thousand entries in the order in which the file system has it: nothing waits until it is listed. Answers are printed
as they come, in the order of the pictures; a picture that cannot be read costs a line on standard error, and the rest
goes on.
"""

import collections
import dataclasses
import errno
import itertools
import json
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from clients.access import AccessOptions
from clients.answers import Prediction
from clients.calls import DEFAULT_TIMEOUT_S
from clients.client import DigitClient
from clients.errors import DigitError, ServerBusy, ServerError, ServerUnavailable, TimedOut
from clients.lines import lines

if TYPE_CHECKING:
    from imaging.digit import Digit
    from imaging.reader import Reading

# What is called a picture in a folder, where other files are passed over.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif"})

# Entries of a folder that are read by name; more would have to be listed before the first can be answered.
MOST_SORTED = 10_000

# Pictures in work at a time: OpenCV and Pillow leave Python's lock, and requests wait for the server.
_THREADS = min(8, 2 * (os.cpu_count() or 1))
_AHEAD = 4 * _THREADS

# Images in a request; servers take more, but then the first answer of a page waits for the last.
_IMAGES_PER_REQUEST = 64

# A server that fails on so many pictures in a row will fail on the next one.
_PATIENCE = 3

STDIN = Path("-")

# How long standard input is waited for at a time, and how much of it is read at once: as much as a pipe holds.
_WAIT_S = 0.2
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    paths: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE ...", help_behavior_hint="(required)")
    ]
    """Picture files of any size, folders of them, or - for standard input. Paper or blackboard, photograph or drawing:
    what is ink is found out."""

    many: bool = False
    """Read all digits of each picture, line by line from left to right. Default: one digit in each."""

    json: bool = False
    """Print one JSON object per picture instead of the table."""

    annotate: Path | None = None
    """Write each picture with the digits drawn into it: a file such as out.png, or a folder for several."""

    explain: Path | None = None
    """Write each picture as it is after every step of its way to 28 x 28 pixels: a file or a folder, as before."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the server."""

    top_k: int = 3
    """How many candidates to show per digit, 1 to 10."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds after which a call is given up."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What was read from one picture, or why nothing was.

    Attributes:
        path: As it was named, or found.
        reading: The picture's steps; None with an error.
        predictions: One per digit.
        error: One line; empty when all went well.
        failure: What the server did, where that is the error.
    """

    path: Path
    reading: "Reading | None" = None
    predictions: tuple[Prediction, ...] = ()
    error: str = ""
    failure: DigitError | None = None

    @property
    def lines(self) -> list[int]:
        """The line that each digit stands in."""
        return lines(digit.box for digit in self.reading.digits) if self.reading else []


def classify(options: Options) -> bool:
    """Print what is in each picture; returns whether all could be read and were answered.

    Raises:
        DigitError: The server is away, or refuses whatever it is asked.
    """
    table = None if options.json else _Table(options)
    complete, failures, answered = True, 0, False
    drawn: dict[Path, Path] = {}
    tls, token = options.access.tls(), options.access.token()
    with DigitClient(options.address, timeout_s=options.timeout_s, tls=tls, token=token) as client:
        for answer in _answers(client, options):
            answered = True
            failures = failures + 1 if answer.failure else 0
            if answer.failure and failures == _PATIENCE:
                raise answer.failure
            error = answer.error or _draw(answer, options, drawn)
            if options.json:
                print(json.dumps(_document(answer)), flush=True)  # in ASCII: a name may be no text in any encoding
            elif table and not answer.error:
                table.show(answer)
            if error:
                complete = False
                print(f"error: {_line(answer.path)}: {error}", file=sys.stderr)
    if not answered:
        raise DigitError(f"{', '.join(map(str, options.paths))}: there is no picture in it")
    return complete


# Pictures


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that are named, and the pictures below the folders, by name; no large folder is listed whole."""
    for path in paths:
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def _below(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            first = list(itertools.islice(entries, MOST_SORTED + 1))
            if len(first) <= MOST_SORTED:
                first.sort(key=lambda entry: entry.name)
            for entry in itertools.chain(first, entries):
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(Path(entry.path))
                elif _is_picture(entry):
                    yield Path(entry.path)
    except OSError:
        yield folder  # which cannot be read, and is reported like a file


def _is_picture(entry: os.DirEntry[str]) -> bool:
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    try:
        return entry.is_file()
    except OSError:
        return True  # such as a link to itself, which is reported when it is read


def _content(path: Path) -> bytes:
    """A file's bytes, or what of them shows that they are too many."""
    from imaging.decode import MAX_BYTES

    if path == STDIN:
        return _standard_input(MAX_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _standard_input(most: int) -> bytes:
    """So many bytes of it, or all. No wait for them is long: Python sees a Ctrl-C that comes just before one after it.

    Raises:
        OSError: There is none, or it cannot be read.
    """
    if sys.stdin is None:  # closed by whoever started this
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    content = bytearray()
    while len(content) < most:
        if select.select([sys.stdin], [], [], _WAIT_S)[0]:
            piece = os.read(sys.stdin.fileno(), min(_PIECE_BYTES, most - len(content)))
            if not piece:
                break
            content += piece
    return bytes(content)


# Answers


def _answers(client: DigitClient, options: Options) -> Iterator[Answer]:
    """One per picture, in the order of the pictures; the next ones are in work meanwhile."""
    waiting: collections.deque[Future[Answer]] = collections.deque()
    since = _LastAnswer()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for path in find(options.paths):
            if path != STDIN:
                waiting.append(pool.submit(_answer, client, path, options, since))
            while waiting and (waiting[0].done() or len(waiting) > _AHEAD or path == STDIN):
                yield waiting.popleft().result()
            if path == STDIN:  # may never come, and Ctrl-C reaches this thread only
                yield _answer(client, path, options, since)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _answer(client: DigitClient, path: Path, options: Options, since: "_LastAnswer") -> Answer:
    from imaging import PictureError
    from imaging.reader import trace

    try:
        reading = trace(_content(path), many=options.many)
        return Answer(path=path, reading=reading, predictions=_predictions(client, reading.digits, options, since))
    except OSError as error:
        return Answer(path=path, error=f"cannot be read: {error.strerror or error}")
    except PictureError as error:
        return Answer(path=path, error=str(error))
    except (TimedOut, ServerError) as error:
        return Answer(path=path, error=str(error), failure=error)


class _LastAnswer:
    """When the server last answered anyone: until then it was there."""

    def __init__(self) -> None:
        self.time = time.monotonic()


def _predictions(
    client: DigitClient, digits: "Sequence[Digit]", options: Options, since: _LastAnswer
) -> tuple[Prediction, ...]:
    """The answer for each digit. A server that is busy or restarts is given time before that is an error.

    Raises:
        DigitError: It has answered nobody for as long as a call may take; or does not want this call.
    """
    predictions: tuple[Prediction, ...] = ()
    wait_s = 0.1
    while len(predictions) < len(digits):
        images = [digit.pixels for digit in digits[len(predictions) :][:_IMAGES_PER_REQUEST]]
        try:
            predictions += client.classify(images, top_k=options.top_k).predictions
            since.time = time.monotonic()
        except (ServerBusy, ServerUnavailable):
            if time.monotonic() + wait_s > since.time + options.timeout_s:
                raise
            time.sleep(wait_s)
            wait_s *= 2
    return predictions


# Output


def _warnings(digit: "Digit", prediction: Prediction) -> list[str]:
    """The picture's, and the answer's own."""
    return [*map(str, digit.warnings), *prediction.warnings]


def _document(answer: Answer) -> dict[str, Any]:
    if answer.reading is None:
        return {"path": str(answer.path), "error": answer.error}
    return {
        "path": str(answer.path),
        "digits": [
            {
                "line": line,
                "digit": prediction.digit,
                "probability": round(prediction.probability, 6),
                "candidates": [
                    {"digit": each.digit, "probability": round(each.probability, 6)} for each in prediction.top
                ],
                "box": dataclasses.asdict(digit.box),
                "warnings": _warnings(digit, prediction),
            }
            for line, digit, prediction in zip(answer.lines, answer.reading.digits, answer.predictions, strict=True)
        ],
    }


def _line(path: Path) -> str:
    """The name without what would end the line, or command a terminal: whoever made the file chose it."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(path))


class _Table:
    """Rows for people, under a head that comes with the first of them."""

    def __init__(self, options: Options) -> None:
        self._many = options.many
        self._width = max(40 if path.is_dir() else len(_line(path)) for path in options.paths)
        columns = "digits  least probable  warnings" if options.many else "digit  probability  candidates"
        self._head = f"{'picture':{self._width}}  {columns}"

    def show(self, answer: Answer) -> None:
        """Print the row of one picture."""
        if self._head:
            print(self._head)
            self._head = ""
        row = self._many_row(answer) if self._many else self._row(answer)
        print(f"{_line(answer.path):{self._width}}  {row}".rstrip(), flush=True)

    @staticmethod
    def _row(answer: Answer) -> str:
        assert answer.reading
        (digit,), (prediction,) = answer.reading.digits, answer.predictions
        if "blank" in digit.warnings:
            return f"{'-':>5}  {'-':>11}  no digit found"
        candidates = ", ".join(f"{each.digit} {each.probability:.1%}" for each in prediction.top)
        warnings = ", ".join(_warnings(digit, prediction)).replace("_", " ")
        return f"{prediction.digit:5}  {prediction.probability:11.2%}  {candidates}" + (
            f"  ({warnings})" if warnings else ""
        )

    @staticmethod
    def _many_row(answer: Answer) -> str:
        assert answer.reading
        if not answer.predictions:
            return "no digit found"
        written: dict[int, str] = {}
        for line, prediction in zip(answer.lines, answer.predictions, strict=True):
            written[line] = written.get(line, "") + str(prediction.digit)
        least = min(each.probability for each in answer.predictions)
        pairs = zip(answer.reading.digits, answer.predictions, strict=True)
        counts = collections.Counter(warning for pair in pairs for warning in _warnings(*pair))
        return f"{' / '.join(written.values())}  {least:.2%}  " + ", ".join(
            f"{count} {name}" for name, count in counts.items()
        ).replace("_", " ")


def _draw(answer: Answer, options: Options, drawn: dict[Path, Path]) -> str:
    """Write the figures that were asked for; returns what went wrong. `drawn` has the picture of each so far."""
    from imaging import figure

    if answer.reading is None:
        return ""
    labels = [str(each.digit) for each in answer.predictions]
    try:
        if options.annotate:
            figure.annotated(answer.reading, labels).save(_target(options.annotate, answer.path, options, drawn))
        if options.explain:
            figure.explained(answer.reading, labels).save(_target(options.explain, answer.path, options, drawn))
    except (OSError, ValueError) as error:
        return f"its figure cannot be written: {error}"
    return ""


def _target(out: Path, path: Path, options: Options, drawn: dict[Path, Path]) -> Path:
    """Where a picture's figure belongs: `out` itself for a single file.

    In a folder that exists, or for several, it is below `out`, as in the pictures' folders.

    Raises:
        ValueError: The figure of another picture is there, or the picture itself.
    """
    if len(options.paths) > 1 or options.paths[0].is_dir() or out.is_dir():
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        out = out.joinpath(*parts).with_name(path.name + ".png")
    if path != STDIN and out.exists() and out.samefile(path):
        raise ValueError(f"{out} is the picture itself; write it elsewhere")
    if (other := drawn.setdefault(out, path)) != path:
        raise ValueError(f"{out} is that of {_line(other)}; draw one of the two elsewhere")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def main() -> int:
    """Exit status: 0 when every picture was answered, 1 when some could not be, or no server answered."""
    options = tyro.cli(
        Options, prog="python -m clients.classify", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if not options.paths:
        print("error: no pictures were named; name at least one file or folder", file=sys.stderr)
        return 1
    if not 1 <= options.top_k <= 10:
        print(f"error: --top-k is {options.top_k}; 1 to 10 was expected", file=sys.stderr)
        return 1
    if options.annotate is not None and options.annotate == options.explain:
        print(f"error: --annotate and --explain are both {options.annotate}; name two places", file=sys.stderr)
        return 1
    try:
        return 0 if classify(options) else 1
    except DigitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; `pip install '.[pictures]'` brings it", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1  # whoever read the output has seen enough
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
