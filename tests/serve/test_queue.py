"""The queue under every order of events that hypothesis can think of, against a plain list."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.queue import Job, Queue
from tests.fakes import images

CAPACITY = 20


class Caller:
    """Who waits for an answer."""

    def __init__(self) -> None:
        self.gone = False

    def done(self) -> bool:
        return self.gone


class QueueMachine(RuleBasedStateMachine):
    """Times are whole numbers; an engine takes one for each call and one for every four images."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(CAPACITY)
        self.now = 0
        self.waiting: list[Job] = []
        self.seen: dict[int, list[int]] = {}
        self.dropped: set[int] = set()

    @staticmethod
    def engine_time(count: int) -> float:
        return 1 + count / 4

    @rule(count=st.integers(1, 12), patience=st.integers(1, 30) | st.just(10**9))
    def arrive(self, count: int, patience: int) -> None:
        room = sum(job.waiting for job in self.waiting) + count <= CAPACITY
        assert self.queue.has_room(count) == room
        if room:
            job = Job(pixels=images(count), deadline=self.now + patience, arrived=self.now, waiter=Caller())
            self.queue.put(job)
            self.waiting.append(job)
            self.seen[id(job)] = []

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), told=st.booleans())
    def leave(self, data: st.DataObject, told: bool) -> None:
        """A caller goes; the queue is told, or finds out by itself."""
        job = data.draw(st.sampled_from(self.waiting))
        job.waiter.gone = True
        if told:
            self.queue.discard(job)
            self.waiting.remove(job)

    @rule(most=st.integers(1, 8))
    def take(self, most: int) -> None:
        expired: list[Job] = []
        batch = self.queue.take(most, self.now, self.engine_time, expired.append)
        assert sum(stop - start for _, start, stop in batch) <= most
        taken = 0
        for job, start, stop in batch:
            assert not job.waiter.gone
            taken += stop - start
            assert job.deadline > self.now + self.engine_time(taken), "it could not be answered in time"
            self.seen[id(job)] += range(start, stop)
        # Who was passed over is gone, or would have come too late; the others were taken in order.
        for job in expired:
            assert not job.waiter.gone
            self.dropped.add(id(job))
        left = [job for job in self.waiting if job.waiting and id(job) not in self.dropped and not job.waiter.gone]
        order = [id(job) for job in self.waiting]
        assert [id(job) for job, _, _ in batch] == sorted((id(job) for job, _, _ in batch), key=order.index)
        if left and taken < most:
            raise AssertionError("an engine was left idle although somebody waited")
        self.waiting = [job for job in self.waiting if job in self.queue._jobs]

    @rule(steps=st.integers(1, 10))
    def wait(self, steps: int) -> None:
        self.now += steps

    @invariant()
    def the_count_is_exact_and_within_the_capacity(self) -> None:
        assert self.queue.images == sum(job.waiting for job in self.waiting) <= CAPACITY
        assert len(self.queue) == len(self.waiting)

    @invariant()
    def no_image_is_taken_twice_or_passed_over(self) -> None:
        for taken in self.seen.values():
            assert taken == list(range(len(taken)))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)
