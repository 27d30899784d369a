"""Pictures become pixels beside the event loop, which must never wait for them."""

import asyncio
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import imaging


class Read(Protocol):
    """`imaging.read` as a coroutine."""

    async def __call__(self, data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        """The digits in a picture.

        Raises:
            imaging.PictureError: The bytes are no picture, or it is too large.
        """
        ...


@contextmanager
def threads(count: int) -> Iterator[Read]:
    """Reads at most `count` pictures at a time; Pillow and OpenCV let go of the interpreter while they compute."""
    with ThreadPoolExecutor(count, "picture") as pool:

        async def read(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
            return await asyncio.get_running_loop().run_in_executor(
                pool, functools.partial(imaging.read, data, many=many)
            )

        yield read
