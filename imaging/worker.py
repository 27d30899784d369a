"""`python -m imaging.worker SECONDS`: reads pictures for a pool, one after another, until its standard input ends.

Whatever a picture makes of the libraries that read it happens here: in a process that can open nothing, and whose
memory and time are limited. It never ends by itself because of a picture's content, unless that crashes a library.
"""

import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeAlias

from imaging.digit import Digit
from imaging.errors import PictureError
from imaging.messages import (
    DIGITS,
    FAILED,
    MAX_DIGITS,
    MISSING,
    READY,
    REFUSED,
    REPLY,
    REQUEST,
    write_digits,
)

# All that the process may have mapped, its libraries included. The largest pictures that are read need nearly as much
# where they are transparent, and a tenth of it where they are photographs.
MEMORY_BYTES = 2 << 30

# Callers who need no picture read go first.
_NICENESS = 5

Read: TypeAlias = Callable[..., tuple[Digit, ...]]


def main() -> None:
    """Tell whether it can begin, then read."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply

    def reply(kind: int, body: bytes = b"") -> None:
        replies.write(REPLY.pack(kind, len(body)) + body)
        replies.flush()

    # The pool ends it; whoever means to end the server with all its processes lets it finish.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_NICENESS)
    try:
        read = _load()
    except ModuleNotFoundError as error:
        reply(MISSING, str(error.name).encode())
        return
    except Exception:  # the process's outer edge: the pool is waiting
        reply(FAILED, _traceback())
        return
    _confine(replies.fileno())
    reply(READY)
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        size, many = REQUEST.unpack(head)
        _allow_cpu(int(sys.argv[1]))
        reply(*_read(read, requests.read(size), many))


def _read(read: Read, picture: bytes, many: bool) -> tuple[int, bytes]:
    """The reply to one picture."""
    try:
        digits = read(picture, many=many)
        if len(digits) > MAX_DIGITS:
            raise PictureError(f"{len(digits)} digits; at most {MAX_DIGITS} in a picture are read; cut it up")
        return DIGITS, write_digits(digits)
    except PictureError as error:
        return REFUSED, str(error).encode()[:500]
    except MemoryError:
        return REFUSED, b"takes too much memory to read; scale it down"
    except Exception:  # the picture's outer edge: the pool is waiting
        return FAILED, _traceback()


def _traceback() -> bytes:
    return traceback.format_exc().encode()[-4000:]


def _load() -> Read:
    """What reads pictures, with everything loaded that it may need: nothing can be opened later.

    Raises:
        ModuleNotFoundError: Something is not installed.
    """
    from PIL import Image

    from imaging.decode import FORMATS
    from imaging.reader import read

    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (28, 12, 36, 52))
    # Colours measured as the eye sees them are converted by a library of their own.
    samples = [(picture, name) for name in FORMATS] + [(picture.convert("LAB"), "TIFF")]
    for sample, name in samples:
        data = io.BytesIO()
        sample.save(data, name)
        for many in (False, True):
            read(data.getvalue(), many=many)
    return read


def _confine(replies_fd: int) -> None:
    """Give up what reading pictures does not take."""
    # Nothing more can be imported, so that nothing need be looked for.
    sys.path.clear()
    # What the server had open is none of ours, however it came here.
    os.closerange(3, replies_fd)
    os.closerange(replies_fd + 1, os.sysconf("SC_OPEN_MAX"))
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _allow_cpu(seconds: int) -> None:
    """Die rather than compute for longer than that from now on. The pool is quicker, as long as there is one."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
