"""The owner's side of the links: what stands in the place of the servicers there."""

import asyncio
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any

from serve.backend import Backend
from serve.batcher import Answer
from serve.config import ServeConfig
from serve.errors import ServeError, UnknownModel
from serve.frontends import messages
from serve.frontends.link import End, Link
from serve.frontends.messages import ASK, CANCEL, CLASSIFY, ENDED, REPLY, SEEN, STATE, Message
from serve.local_model import LocalModel

log = logging.getLogger(__name__)

# A front end takes over a new state within milliseconds; one that is stuck does not keep an old model alive.
_SETTLED_WITHIN_S = 5.0


class Owner:
    """The process with the engines: serves what front ends send.

    Lifecycle: construct, `start`, `stop`; meanwhile `link` and `unlink` as front ends come and go. On one event loop.

    Args:
        config: The configuration.
        on_stuck: Called with the number of a front end that does not read its answers.
    """

    def __init__(self, config: ServeConfig, *, on_stuck: Callable[[int], None]) -> None:
        self._backend = Backend(config, on_change=self._tell_all, settled=self._settled)
        self._on_stuck = on_stuck
        self._ends: dict[int, End] = {}
        self._answers: dict[tuple[int, int], asyncio.Future[Answer]] = {}
        self._replies: set[asyncio.Task[None]] = set()
        # Models that front ends may know of, by number; and what each front end has seen.
        self._numbers = itertools.count()
        self._models: dict[int, LocalModel] = {}
        self._state = 0
        self._seen: dict[int, int] = {}
        self._seen_changed = asyncio.Event()

    async def start(self) -> None:
        """Open the models.

        Raises:
            StartupError: See `Backend.start`.
        """
        await self._backend.start()

    async def stop(self, hurry: asyncio.Event) -> bool:
        """See `Backend.stop`."""
        drained = await self._backend.stop(hurry)
        await self._backend.close()
        return drained

    def link(self, frontend: int, link: Link) -> None:
        """Serve a front end."""
        self.unlink(frontend)
        self._ends[frontend] = End(link, is_owner=True, on_message=functools.partial(self._on_message, frontend))
        self._seen[frontend] = 0
        self._tell(frontend)

    def unlink(self, frontend: int) -> None:
        """A front end is lost, and with it its callers."""
        if end := self._ends.pop(frontend, None):
            end.close()
            del self._seen[frontend]
            self._seen_changed.set()
        for (other, _), answer in list(self._answers.items()):
            if other == frontend:
                answer.cancel()

    def _tell_all(self) -> None:
        """What is served has changed."""
        known = set(self._models.values())
        for model in self._backend.models:
            if model not in known:
                self._models[next(self._numbers)] = model
        self._state += 1
        for frontend in list(self._ends):
            self._tell(frontend)

    def _tell(self, frontend: int) -> None:
        served = set(self._backend.models)
        state = {
            "models": [
                {"number": number, "refusal": model.refusal, "description": dataclasses.asdict(model.description)}
                for number, model in self._models.items()
                if model in served
            ],
            "loads": {name: dataclasses.asdict(loads) for name, loads in self._backend.models.loads.items()},
            "health": self._backend.health(),
        }
        self._send(frontend, messages.written(STATE, self._state, state))

    async def _settled(self) -> None:
        """Wait until all front ends know what is served; what none of them knows any more then has no number."""
        state, served = self._state, set(self._backend.models)
        gone = [number for number, model in self._models.items() if model not in served]
        try:
            async with asyncio.timeout(_SETTLED_WITHIN_S):
                while any(seen < state for seen in self._seen.values()):
                    self._seen_changed.clear()
                    await self._seen_changed.wait()
        except TimeoutError:
            log.warning("front ends have not heard for %g s of what is served", _SETTLED_WITHIN_S)
        for number in gone:
            self._models.pop(number, None)

    def _send(self, frontend: int, message: messages.Parts) -> None:
        end = self._ends.get(frontend)
        if end is not None and not end.send(message):
            # It set room aside for every answer: it has stopped reading.
            self.unlink(frontend)
            self._on_stuck(frontend)

    def _on_message(self, frontend: int, message: Message) -> None:
        if message.kind == CLASSIFY:
            self._classify(frontend, message)
        elif message.kind == CANCEL:
            if answer := self._answers.get((frontend, message.call)):
                answer.cancel()
        elif message.kind == ASK:
            task = asyncio.create_task(self._reply(frontend, message.call, message.document(), self._ends[frontend]))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)
        elif message.kind == SEEN:
            self._seen[frontend] = message.call
            self._seen_changed.set()
        elif message.kind == ENDED:
            metrics = self._backend.metrics
            assert metrics is not None, "this is a bug: front ends have the owner's configuration"
            calls, pictures = message.document()
            for call in calls:
                metrics.count_call(*call)
            for picture in pictures:
                metrics.count_picture(*picture)

    def _find(self, number: int) -> LocalModel:
        if number not in self._models:
            raise UnknownModel("the model is served no longer; ask again without a version, or for another")
        return self._models[number]

    def _classify(self, frontend: int, message: Message) -> None:
        try:
            answer = self._find(message.number).batcher.enqueue(message.pixels(), deadline=message.first_s)
        except ServeError as error:
            self._send(frontend, messages.refusal(message.call, error))
            return
        self._answers[frontend, message.call] = answer
        answer.add_done_callback(functools.partial(self._answered, frontend, message.call))

    def _answered(self, frontend: int, call: int, answer: "asyncio.Future[Answer]") -> None:
        del self._answers[frontend, call]
        error = ServeError("the caller has gone") if answer.cancelled() else answer.exception()
        if isinstance(error, Exception):
            self._send(frontend, messages.refusal(call, error))
        else:
            self._send(frontend, messages.answer(call, answer.result()))

    async def _reply(self, frontend: int, call: int, question: Any, end: End) -> None:
        try:
            reply = messages.written(REPLY, call, await self._replied(*question))
        except Exception as error:  # the question's outer edge: whoever asked is waiting
            if not isinstance(error, ServeError):
                log.exception("no reply to %s", question)
            reply = messages.refusal(call, error, most_bytes=messages.REPLY_BYTES)
        # Another process that has come in its place has not asked.
        if self._ends.get(frontend) is end:
            self._send(frontend, reply)

    async def _replied(self, question: str, about: Any) -> Any:
        if question == "counts":
            return dataclasses.asdict(await self._find(about).counts())
        control = self._backend.control
        assert control is not None, "this is a bug: front ends have the owner's configuration"
        return await (control.load(about) if question == "load" else control.unload(about))
