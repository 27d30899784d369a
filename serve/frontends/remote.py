"""The front end's side of a link: what stands in the place of the batchers there."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from serve.batcher import Answer, Counts
from serve.engines import Pixels
from serve.errors import Draining, QueueFull, Unavailable
from serve.frontends import messages
from serve.frontends.link import End, Link
from serve.frontends.messages import ANSWER, ASK, CANCEL, ENDED, REFUSAL, REPLY_BYTES, SEEN, STATE, Message
from serve.model import Description, Model
from serve.waiting import wait_unless

# A ring that is full is being read: a little later there is room.
_RETRY_AFTER_S = 0.005

# Calls that ended are told so many at a time, or after so long.
_ENDED_CALLS = 100
_ENDED_S = 0.25

STARTING = "the process with the engines is being started"
LOST = "the process with the engines was lost; it is being started again"


class _Waiting(NamedTuple):
    """Who waits for an answer, and the bytes that are set aside for it."""

    answer: "asyncio.Future[Any]"
    room: int


class Remote:
    """The owner, as a front end sees it.

    Answers always find room in their ring, because a request is sent only when the room for its answer is set aside.

    Args:
        capacity: Bytes that a link's rings hold.
        on_state: Called with the models that are served, after every change; with None when the owner is lost.
    """

    def __init__(self, capacity: int, on_state: Callable[[Any], None]) -> None:
        self._on_state = on_state
        self._end: End | None = None
        self._calls = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._capacity = capacity
        self._room = 0
        self._refusal: Unavailable | None = Unavailable(STARTING)
        self._ended: list[tuple[Any, ...]] = []
        self._pictures: list[tuple[str, float]] = []

    def link(self, link: Link) -> None:
        """Talk to a new owner."""
        # A record that does not fit before the ring's end leaves unused what is there, at most half of the ring; and a
        # quarter is for what is no answer.
        self.unlink()
        self._room = self._capacity // 4
        self._end = End(link, is_owner=False, on_message=self._on_message)

    def unlink(self) -> None:
        """The owner is lost, and with it every call under way."""
        if self._end is None:
            return
        self._end.close()
        self._end = None
        if not isinstance(self._refusal, Draining):
            self._refusal = Unavailable(LOST)
        self._on_state(None)
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(Unavailable(LOST))
        self._waiting.clear()

    @property
    def refusal(self) -> str | None:
        """Why no requests are accepted; None while they are."""
        return str(self._refusal) if self._refusal else None

    async def submit(self, model: int, pixels: Pixels, deadline: float) -> Answer:
        """See `Batcher.submit`; the model is the owner's number for it."""
        call = next(self._calls)
        message = messages.classify(call, model, deadline, pixels)
        try:
            answer: Answer = await self._send(call, message, messages.answer_bytes(len(pixels)))
        except asyncio.CancelledError:
            if self._end is not None:
                # Without room for it the images are classified in vain.
                self._end.send(messages.plain(CANCEL, call))
            raise
        return answer

    async def ask(self, *question: object) -> Any:
        """What the owner replies to a question: a name, and what belongs to it."""
        call = next(self._calls)
        return await self._send(call, messages.written(ASK, call, question), REPLY_BYTES)

    async def load(self, name: str) -> None:
        """See `ModelControl.load`."""
        await self.ask("load", name)

    async def unload(self, name: str) -> None:
        """See `ModelControl.unload`."""
        await self.ask("unload", name)

    def count_call(self, *ended: object) -> None:
        """See `Metrics.count_call`: the owner, which keeps the metrics, is told soon."""
        self._ended.append(ended)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(_ENDED_S, self._tell_ended)
        elif len(self._ended) >= _ENDED_CALLS:
            self._tell_ended()

    def count_picture(self, result: str, seconds: float) -> None:
        """See `Metrics.count_picture`: the owner is told with the next call that ends."""
        self._pictures.append((result, seconds))

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Refuse what is new; whether all that is under way was answered before `hurry` was set."""
        self._refusal = Draining("the server is draining")
        answers = [waiting.answer for waiting in self._waiting.values()]
        if answers:
            settled = asyncio.ensure_future(asyncio.wait(answers))
            await wait_unless(hurry, settled)
            settled.cancel()
        self._tell_ended()
        return all(answer.done() for answer in answers)

    def _send(self, call: int, message: messages.Parts, room: int) -> "asyncio.Future[Any]":
        if self._end is None or self._refusal:
            raise type(self._refusal)(*self._refusal.args) if self._refusal else Unavailable(LOST)
        if self._room < room or not self._end.send(message):
            raise QueueFull(
                f"{len(self._waiting)} calls of this front end are under way, no room for more; try again later or "
                "elsewhere",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._room -= room
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call] = _Waiting(answer, room)
        return answer

    def _tell_ended(self) -> None:
        # Without room for them these calls are missing in the metrics.
        if self._ended and self._end is not None:
            self._end.send(messages.written(ENDED, 0, [self._ended, self._pictures]))
        self._ended, self._pictures = [], []

    def _on_message(self, message: Message) -> None:
        if message.kind == STATE:
            self._on_state(message.document())
            if not isinstance(self._refusal, Draining):
                self._refusal = None  # only now is it known which models have which numbers
            if self._end is not None:
                self._end.send(messages.plain(SEEN, message.call))
            return
        # Every call is answered or refused once, cancelled ones included.
        waiting = self._waiting.pop(message.call)
        self._room += waiting.room
        if waiting.answer.done():
            return
        if message.kind == REFUSAL:
            waiting.answer.set_exception(message.error())
        else:
            waiting.answer.set_result(message.answer() if message.kind == ANSWER else message.document())


class RemoteModel(Model):
    """A model whose engines are in the owner's process.

    Args:
        description: What callers may know.
        number: The owner's for it.
        refusal: Why it accepts no requests.
        remote: The owner.
        max_deadline_s: As configured.
    """

    def __init__(
        self, description: Description, number: int, refusal: str | None, remote: Remote, *, max_deadline_s: float
    ) -> None:
        super().__init__(description, max_deadline_s=max_deadline_s)
        self._number = number
        self._refusal = refusal
        self._remote = remote

    @property
    def refusal(self) -> str | None:
        """See `Model.refusal`."""
        return self._remote.refusal or self._refusal

    async def counts(self) -> Counts:
        """See `Model.counts`."""
        return Counts(**await self._remote.ask("counts", self._number))

    async def _submit(self, pixels: Pixels, deadline: float) -> Answer:
        return await self._remote.submit(self._number, pixels, deadline)
