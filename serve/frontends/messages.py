"""What front ends and the owner tell each other: records of a ring, each of a kind.

Both ends are processes of one server, made from one source: nothing here comes from outside, and nothing is kept.
"""

import json
import struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from serve.batcher import Answer
from serve.engines import CLASSES, IMAGE_SHAPE, Pixels
from serve.errors import Busy, ServeError

# To the owner: images of one caller; that it has gone; a question; that a state has been taken over; calls that
# ended, and pictures that were read.
CLASSIFY, CANCEL, ASK, SEEN, ENDED = range(5)
# To a front end: what became of the images; why there is no answer, or no reply; the reply to a question; the models
# that are served, after every change.
ANSWER, REFUSAL, REPLY, STATE = range(5, 9)

# Kind, a number that depends on it, the call, and two times in seconds.
_HEAD = struct.Struct("=BxxxIQdd")

# Most bytes of a refusal's record, whose text is cut for it; and of the reply to a question, or of its refusal, which
# has the whole reason why a model cannot be loaded.
REFUSAL_BYTES = 1024
REPLY_BYTES = 8192
_AROUND_BYTES = 124  # what else is in a refusal's record
_CHARACTER_BYTES = 6  # what JSON makes of a character at the worst

Parts: TypeAlias = tuple[bytes | memoryview, ...]
"""A message as it is written into a ring."""


class Message(NamedTuple):
    """One record. `body` is a view of the ring, valid until the next record is read."""

    kind: int
    number: int
    call: int
    first_s: float
    second_s: float
    body: memoryview

    def pixels(self) -> Pixels:
        """The images of CLASSIFY, uint8 [N, 1, 28, 28]: a copy, since they outlive the record."""
        return np.frombuffer(bytes(self.body), np.uint8).reshape(-1, *IMAGE_SHAPE)

    def answer(self) -> Answer:
        """What ANSWER carries."""
        probabilities = np.frombuffer(bytes(self.body), np.float32).reshape(-1, CLASSES)
        return Answer(
            probabilities=probabilities, queue_s=self.first_s, compute_s=self.second_s, batch_size=self.number
        )

    def document(self) -> Any:
        """The body of ASK, ENDED, REFUSAL, REPLY and STATE."""
        return json.loads(bytes(self.body))

    def error(self) -> ServeError:
        """What REFUSAL carries."""
        document = self.document()
        kind = _ERRORS[document["error"]]
        if issubclass(kind, Busy):
            return kind(document["message"], retry_after_s=document["retry_after_s"])
        return kind(document["message"])


def read(record: memoryview) -> Message:
    """The message of a record."""
    kind, number, call, first_s, second_s = _HEAD.unpack_from(record)
    return Message(kind, number, call, first_s, second_s, record[_HEAD.size :])


def classify(call: int, model: int, deadline: float, pixels: Pixels) -> Parts:
    """Images for a model, by its number; the deadline is of the monotonic clock, which all processes share."""
    return _HEAD.pack(CLASSIFY, model, call, deadline, 0.0), pixels.data.cast("B")


def plain(kind: int, number: int = 0) -> Parts:
    """A message without a body: CANCEL, whose number is the call, and SEEN, whose number is the state's."""
    return (_HEAD.pack(kind, 0, number, 0.0, 0.0),)


def answer(call: int, given: Answer) -> Parts:
    """What the engines gave."""
    head = _HEAD.pack(ANSWER, given.batch_size, call, given.queue_s, given.compute_s)
    return head, given.probabilities.data.cast("B")


def answer_bytes(images: int) -> int:
    """Most bytes that come back for a request, as an answer or as a refusal."""
    return max(REFUSAL_BYTES, _HEAD.size + images * CLASSES * 4)


def refusal(call: int, error: Exception, *, most_bytes: int = REFUSAL_BYTES) -> Parts:
    """Why there is no answer; the text is cut so that the record has at most so many bytes."""
    document: dict[str, Any] = {
        "error": type(error).__name__ if type(error).__name__ in _ERRORS else ServeError.__name__,
        "message": str(error)[: (most_bytes - _AROUND_BYTES) // _CHARACTER_BYTES],
    }
    if isinstance(error, Busy):
        document["retry_after_s"] = error.retry_after_s
    return written(REFUSAL, call, document)


def written(kind: int, call: int, document: Any) -> Parts:
    """ASK, ENDED, REPLY or STATE, whose call is the state's number."""
    return _HEAD.pack(kind, 0, call, 0.0, 0.0), json.dumps(document).encode()


def _all_below(kind: type[ServeError]) -> dict[str, type[ServeError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _all_below(child)
    return found


_ERRORS = _all_below(ServeError)
