"""The loops that send requests: closed and open, by calls and by streams.

Closed loop: so many requests are under way at any time; the next is due when one has ended. Open loop: requests are due
when the schedule says so, whatever became of the others. Nothing is retried. After a failure the closed loop rests, for
a server that refuses at once would be asked thousands of times a second.
"""

import asyncio
import collections
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from clients.benchmark import calls
from clients.benchmark.calls import Protocol
from clients.benchmark.recording import Recorder

REST_S = 0.01

# Open loop: more requests under way in one process are not sent, and counted as what they are: not answered.
MOST_UNDER_WAY = 10_000

NOT_SENT = "NOT_SENT"
_TOO_MANY = f"{MOST_UNDER_WAY:,} others were under way in its process"
_TOO_LATE = "its time was over before it could be sent; where the load generator is busy, more --processes can help"

# Open loop: so many requests whose deadlines have passed before they could be sent are counted at once.
_HOPELESS = 64

_OVERDUE = "DEADLINE_EXCEEDED"

# A stream is given up that has not brought an answer for so many times a message's deadline.
_STALLED = 2

# A stream lives as long as what it carries, and each message has a deadline of its own.
_STREAM_TIMEOUT_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one process sends.

    Attributes:
        path: The method.
        protocol: Of which protocol.
        request: The message.
        metadata: Of each call.
        callers: Closed loop: how many requests are under way.
        due: Open loop: when requests are due, in seconds from the start; None in the closed loop.
        streams: How many streams carry the messages; 0 sends calls.
        start: When requests begin, by the event loop's clock, which is the system's monotonic one.
        timeout_s: Deadline of each, from when it is due.
    """

    path: str
    protocol: Protocol
    request: bytes
    metadata: tuple[tuple[str, str], ...] | None
    callers: int
    due: Iterator[float] | None
    streams: int
    start: float
    timeout_s: float


class Driver:
    """Drives one load over one channel until it is told to stop."""

    def __init__(self, channel: grpc.aio.Channel, load: Load, recorder: Recorder) -> None:
        self._load = load
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._stopped = False
        self._alarm: asyncio.Future[None] = self._loop.create_future()
        self._under_way = 0
        connect = channel.stream_stream if load.streams else channel.unary_unary
        self._method: Any = connect(load.path, request_serializer=None, response_deserializer=None)
        self._exchanges = [_Exchange(self._method, load, recorder) for _ in range(load.streams)]
        if load.due is not None:
            recorder.expect(load.start)

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True
        for exchange in self._exchanges:
            exchange.stop()
        _ring(self._alarm)

    async def run(self) -> None:
        """Send requests until `stop`, and wait for what is under way."""
        await self._until(self._load.start)
        async with asyncio.TaskGroup() as tasks:
            for number, exchange in enumerate(self._exchanges):
                depth = self._load.callers // self._load.streams + (number < self._load.callers % self._load.streams)
                tasks.create_task(exchange.run(depth))
            if self._load.due is None:
                for _ in range(0 if self._exchanges else self._load.callers):
                    tasks.create_task(self._caller())
            else:
                await self._send_when_due(self._load.due, tasks)

    async def _caller(self) -> None:
        while not self._stopped:
            planned = self._now()
            if not await self._call(self._recorder.begin(planned), planned):
                await asyncio.sleep(REST_S)

    async def _send_when_due(self, due: Iterator[float], tasks: asyncio.TaskGroup) -> None:
        for turn, seconds in enumerate(due):
            planned = self._load.start + seconds
            self._recorder.expect(planned)
            overdue_s = self._now() - planned
            if overdue_s < 0:
                await self._until(planned)
            elif overdue_s < self._load.timeout_s or turn % _HOPELESS == 0:
                await asyncio.sleep(0)  # overdue, but answers that have come are not to wait for that
            if self._stopped:
                return
            number = self._recorder.begin(planned)
            if overdue_s >= self._load.timeout_s:
                self._recorder.fail(number, NOT_SENT, _TOO_LATE)
            elif self._exchanges:
                self._exchanges[turn % len(self._exchanges)].send(number, planned)
            elif self._under_way >= MOST_UNDER_WAY:
                self._recorder.fail(number, NOT_SENT, _TOO_MANY)
            else:
                tasks.create_task(self._call(number, planned))

    async def _until(self, moment: float) -> None:
        if not self._stopped:
            self._alarm = self._loop.create_future()
            timer = self._loop.call_at(moment, _ring, self._alarm)
            await self._alarm
            timer.cancel()

    async def _call(self, number: int, planned: float) -> bool:
        """One unary call; returns whether it was answered."""
        load, recorder = self._load, self._recorder
        sent = self._now()
        rest_s = planned + load.timeout_s - sent
        if rest_s <= 0:
            recorder.fail(number, NOT_SENT, _TOO_LATE)
            return False
        self._under_way += 1
        try:
            answer = await self._method(load.request, timeout=rest_s, metadata=load.metadata)
        except grpc.aio.AioRpcError as error:
            recorder.fail(number, error.code().name, error.details())
            return False
        finally:
            self._under_way -= 1
        answered = self._now()
        split = calls.split(load.protocol, answer, streams=False) if recorder.samples() else None
        recorder.answer(number, planned, sent, answered, split)
        return True


class _Exchange:
    """The messages of one stream, which is opened anew when it ends."""

    def __init__(self, method: Any, load: Load, recorder: Recorder) -> None:
        self._method = method
        self._load = load
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._unsent: asyncio.Queue[tuple[int, float] | None] = asyncio.Queue()
        self._sent: collections.deque[tuple[int, float, float]] = collections.deque()
        self._stopped = False
        # The oldest of those sent that have been counted as overdue, but may still be answered.
        self._overdue = 0
        self._heard = 0.0
        self._stalled = False

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True
        self._unsent.put_nowait(None)

    def send(self, number: int, planned: float) -> None:
        """Send a message as soon as the stream takes it."""
        if len(self._sent) + self._unsent.qsize() < MOST_UNDER_WAY:
            self._unsent.put_nowait((number, planned))
        else:
            self._recorder.fail(number, NOT_SENT, _TOO_MANY)

    def _send_now(self) -> None:
        planned = self._loop.time()
        self.send(self._recorder.begin(planned), planned)

    async def run(self, depth: int) -> None:
        """Open streams until `stop`, in the closed loop with so many messages under way."""
        while not self._stopped:
            for _ in range(depth):
                self._send_now()
            code, reason = await self._run_once(refill=depth > 0)
            for number, _, _ in list(self._sent)[self._overdue :]:
                self._recorder.fail(number, code, reason)
            self._sent.clear()
            self._overdue = 0
            # In the open loop what was not sent may still be, on the next stream; callers begin anew.
            while (depth or self._stopped) and not self._unsent.empty():
                if message := self._unsent.get_nowait():
                    self._recorder.fail(message[0], code, reason)
            if not self._stopped:
                await asyncio.sleep(REST_S)

    async def _run_once(self, *, refill: bool) -> tuple[str, str | None]:
        """Open a stream; returns with which status it ended, and what was said."""
        call = self._method(timeout=_STREAM_TIMEOUT_S, metadata=self._load.metadata)
        self._stalled = False
        self._heard = self._loop.time()
        writer = asyncio.ensure_future(self._write(call))
        timer = self._watch(call, refill=refill)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                if self._take(message) and refill and not self._stopped:
                    self._send_now()
            return "STREAM_ENDED", None
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            return _OVERDUE if self._stalled else "CANCELLED", None
        finally:
            timer[0].cancel()
            writer.cancel()
            call.cancel()

    async def _write(self, call: Any) -> None:
        try:
            while message := await self._unsent.get():
                number, planned = message
                sent = self._loop.time()
                if planned + self._load.timeout_s <= sent:
                    self._recorder.fail(number, NOT_SENT, _TOO_LATE)
                    continue
                self._sent.append((number, planned, sent))
                await call.write(self._load.request)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended, as its reader learns, too

    def _take(self, message: bytes) -> bool:
        """An answer has come; returns whether it was still waited for."""
        answered = self._heard = self._loop.time()
        number, planned, sent = self._sent.popleft()
        if self._overdue:
            self._overdue -= 1
            return False
        if code := calls.refusal(self._load.protocol, message):
            self._recorder.fail(number, code)
            return True
        samples = self._recorder.samples()
        split = calls.split(self._load.protocol, message, streams=True) if samples else None
        self._recorder.answer(number, planned, sent, answered, split)
        return True

    def _watch(self, call: Any, *, refill: bool) -> list[asyncio.TimerHandle]:
        """Counts messages that are overdue; ends a stream that has stalled, or has nothing else left.

        The list holds the timer, which is set anew when it rings.
        """
        timeout_s = self._load.timeout_s

        def look() -> None:
            now = self._loop.time()
            # With anything overdue: an idle stream has nothing to bring.
            silent = self._heard + _STALLED * timeout_s <= now and self._sent and self._sent[0][1] + timeout_s <= now
            while not silent and self._overdue < len(self._sent) and self._sent[self._overdue][1] + timeout_s <= now:
                self._recorder.fail(self._sent[self._overdue][0], _OVERDUE)
                self._overdue += 1
                if refill and not self._stopped:
                    self._send_now()
            all_overdue = self._overdue == len(self._sent)
            if silent or (self._stopped and self._overdue and all_overdue):
                self._stalled = True
                call.cancel()
            else:
                oldest = now if all_overdue else self._sent[self._overdue][1]
                timer[0] = self._loop.call_at(oldest + timeout_s, look)

        timer = [self._loop.call_later(timeout_s, look)]
        return timer


def _ring(alarm: "asyncio.Future[None]") -> None:
    if not alarm.done():
        alarm.set_result(None)
