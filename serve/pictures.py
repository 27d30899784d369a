"""Encoded pictures on their way to a model: the limits of this server, and its errors, around `imaging.pool`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from imaging import Digit, PictureError
from imaging.errors import PoolFull, WorkerLost
from imaging.pool import Pool
from serve.config import ServeConfig
from serve.errors import DeadlineExceeded, Draining, InvalidPicture, PictureFault, PictureQueueFull, Unsupported
from serve.waiting import wait_unless

# Requests of the most pictures that one may have, which may be under way at once.
_REQUESTS = 4


class Found(NamedTuple):
    """A digit, and the index of the picture that it is in."""

    image: int
    digit: Digit


class Pictures:
    """Lifecycle: construct, `read` many times, `drain`, `close`; on one event loop.

    Args:
        config: The configuration.
        count_picture: Counts pictures for the metrics; see `imaging.pool.Observe`.

    Attributes:
        max_bytes: Most bytes of a picture.
        max_per_request: Most pictures in one request.
        max_deadline_s: Seconds that a call may take, with what becomes of its digits.
    """

    def __init__(
        self, config: ServeConfig, count_picture: Callable[[str, float], None] = lambda _result, _seconds: None
    ) -> None:
        self.max_bytes = config.max_picture_bytes
        self.max_per_request = config.max_pictures_per_request
        self._enabled = bool(config.picture_workers)
        self.max_deadline_s = config.max_deadline_s
        self._pool = Pool(
            workers=config.picture_workers,
            max_pictures=_REQUESTS * config.max_pictures_per_request,
            max_picture_s=config.max_picture_s,
            observe=count_picture,
        )
        self._under_way: set[asyncio.Future[None]] = set()
        self._draining = False

    async def read(self, pictures: Sequence[bytes], *, many: bool, timeout_s: float | None) -> list[Found]:
        """The digits in one caller's pictures, in their order.

        Args:
            pictures: Within the limits.
            many: Whether each may hold several digits, or none.
            timeout_s: Seconds after which the caller has no use for the answer; None leaves it to the configuration.

        Raises:
            ServeError: There are none to be had.
        """
        if not self._enabled:
            raise Unsupported("this server reads no pictures (--picture-workers 0); send pixels")
        if self._draining:
            raise Draining("the server is draining")
        seconds = self.max_deadline_s if timeout_s is None else min(timeout_s, self.max_deadline_s)
        ended = asyncio.get_running_loop().create_future()
        self._under_way.add(ended)
        try:
            async with asyncio.timeout(seconds):
                found = await self._pool.read(pictures, many=many)
            return [Found(image, digit) for image, digits in enumerate(found) for digit in digits]
        except PictureError as error:
            raise InvalidPicture(str(error)) from error
        except PoolFull as error:
            raise PictureQueueFull(str(error), retry_after_s=error.retry_after_s) from error
        except WorkerLost as error:
            if self._draining:
                raise Draining("the server is draining") from error
            raise PictureFault(str(error)) from error
        except ModuleNotFoundError as error:
            raise Unsupported(
                f"this server reads no pictures: {error.name} is not installed; `pip install '.[pictures]'` brings it"
            ) from error
        except TimeoutError:
            raise DeadlineExceeded(f"not all pictures were read within {seconds:g} s") from None
        finally:
            ended.set_result(None)
            self._under_way.discard(ended)

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Refuse what is new, and read what was accepted; whether that was done before `hurry` was set.

        Whoever waited for pictures has gone on with them when this returns.
        """
        self._draining = True
        if not self._under_way:
            return True
        return await wait_unless(hurry, asyncio.ensure_future(asyncio.wait(self._under_way)))

    async def close(self) -> None:
        """End the processes that read pictures."""
        await self._pool.close()
