"""`--frontends N` as callers and operators see it: real processes, killed in every way."""

import asyncio
import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.frontends.supervisor import Supervisor
from serve.process import ServerProcess, server_process
from tests.fakes import images

SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def frontends(bundle: Path, folder: Path, *flags: str) -> Iterator[ServerProcess]:
    with server_process(bundle, "--frontends", "2", *flags, log=folder / "log") as server:
        yield server


def children(server: ServerProcess) -> list[psutil.Process]:
    """The owner, then the front ends, as they were started."""
    return sorted(psutil.Process(server.pid).children(), key=lambda child: child.create_time())


def wait_for(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, f"{what}: not within 30 s"
        time.sleep(0.02)


def connected(address: str, count: int = 16) -> list[grpc.Channel]:
    """Channels with connections of their own, enough for every front end to have some."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.insecure_channel(address, options) for _ in range(count)]


def is_serving(channel: grpc.Channel) -> bool:
    try:
        check = health_pb2_grpc.HealthStub(channel).Check
        return check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
    except grpc.RpcError:
        return False


def classify(channel: grpc.Channel, count: int = 3, timeout_s: float = 10) -> digits_pb2.ClassifyResponse:
    """One call on that channel's connection, without the retries of our client."""
    request = digits_pb2.ClassifyRequest(pixels=images(count).tobytes())
    return digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, timeout=timeout_s)


def answers(channel: grpc.Channel) -> bool:
    try:
        return len(classify(channel).predictions) == 3
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def test_every_front_end_gives_the_same_answers(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path) as server:
        replies = {classify(channel).predictions[0].SerializeToString() for channel in connected(server.address)}
        _, *fronts = children(server)
        assert len(replies) == 1
        assert all(front.net_connections() for front in fronts)


def test_a_front_end_that_dies_costs_its_own_connections_and_is_started_again(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path) as server:
        channels = connected(server.address)
        assert all(map(answers, channels))
        owner, first, second = children(server)
        first.kill()
        # The dead one counts among the children until the supervisor has noticed.
        wait_for(lambda: first not in children(server) and len(children(server)) == 3, "a new front end")
        assert {owner, second} < set(children(server))
        for channel in channels:
            wait_for(lambda channel=channel: answers(channel), "every caller is answered again")


def test_what_cannot_be_started_again_is_tried_until_it_can(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path) as server:
        supervisor, (owner, first, _) = psutil.Process(server.pid), children(server)
        files = supervisor.rlimit(psutil.RLIMIT_NOFILE)
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, files[1]))
        for process in (owner, first):
            process.kill()
        log = tmp_path / "log"
        wait_for(lambda: log.read_text().count("cannot be started: Too many open files") > 2, "the reason is told")
        supervisor.rlimit(psutil.RLIMIT_NOFILE, files)
        for channel in connected(server.address):
            wait_for(lambda channel=channel: answers(channel), "every caller is answered again")
        assert len(children(server)) == 3


async def test_a_first_process_that_cannot_be_started_is_an_error_with_the_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    async with asyncio.timeout(10):
        with pytest.raises(StartupError, match=r"the engines cannot be started: Resource temporarily unavailable$"):
            await Supervisor(ServeConfig(models=bundle, port=0, frontends=2)).start()


def test_callers_of_an_owner_that_dies_are_told_and_a_new_one_serves(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path) as server:
        channels = connected(server.address, 4)
        assert all(map(answers, channels))
        owner, *fronts = children(server)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(classify, channel, 1000, 30) for channel in channels for _ in range(8)]
            owner.kill()
            codes = {call.exception().code() for call in calls if call.exception()}  # type: ignore[union-attr]
        assert codes <= {grpc.StatusCode.UNAVAILABLE}
        wait_for(lambda: owner not in children(server) and len(children(server)) == 3, "a new owner")
        wait_for(lambda: all(map(is_serving, channels)), "health is good again")
        assert all(map(answers, channels))
        assert set(fronts) < set(children(server))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_behind_by_a_supervisor_that_ends(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    shared = set(os.listdir("/dev/shm"))
    with suppress(StartupError), frontends(bundle, tmp_path) as server:  # about the exit status of SIGKILL
        processes = children(server)
        server.process.send_signal(number)
        psutil.wait_procs(processes, timeout=20)
    assert not any(process.is_running() for process in processes)
    assert set(os.listdir("/dev/shm")) <= shared


def test_a_drain_answers_what_was_accepted(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path, "--queue-images", "60000") as server:
        channels = connected(server.address, 8)
        assert all(map(answers, channels))
        with ThreadPoolExecutor(40) as pool:
            calls = [pool.submit(classify, channel, 300, 30) for channel in channels for _ in range(5)]
            wait_for(lambda: any(call.done() for call in calls), "a first answer")
            server.process.send_signal(signal.SIGTERM)
            refused = [call.exception().code() for call in calls if call.exception()]  # type: ignore[union-attr]
        assert set(refused) <= {grpc.StatusCode.UNAVAILABLE}
        assert len(refused) < len(calls)
        assert server.process.wait(20) == 0


def test_a_second_signal_ends_a_front_end_that_is_stuck(bundle: Path, tmp_path: Path) -> None:
    with suppress(StartupError), frontends(bundle, tmp_path) as server:  # about the exit status
        _, stuck, _ = children(server)
        stuck.suspend()
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: len(children(server)) == 2, "the other front end has ended")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 1
    assert not stuck.is_running()


def test_limits_and_their_words_are_those_of_one_process(bundle: Path, tmp_path: Path) -> None:
    flags = ("--queue-images", "1000", "--max-images-per-request", "1000")
    with frontends(bundle, tmp_path, *flags) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as large:
            classify(channel, 1001)
        assert large.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as late:
            classify(channel, 1000, 0.002)
        assert late.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--engine", "tensorrt"), "engine tensorrt needs an NVIDIA GPU"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(
    bundle: Path, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(StartupError, match=reason), frontends(bundle, tmp_path, *flags):
        pass


def test_a_port_that_another_server_has_is_refused(bundle: Path, tmp_path: Path) -> None:
    with server_process(bundle, log=tmp_path / "other") as other:
        port = other.address.split(":")[1]
        with pytest.raises(StartupError, match="cannot listen"), frontends(bundle, tmp_path, "--port", port):
            pass


def test_metrics_count_the_calls_of_every_front_end(bundle: Path, tmp_path: Path) -> None:
    with frontends(bundle, tmp_path, "--metrics-port", "0") as server:
        log = (tmp_path / "log").read_text()
        [url] = re.findall(r"metrics at (\S+)", log)
        channels = connected(server.address)
        assert all(map(answers, channels))
        with pytest.raises(grpc.RpcError):
            classify(channels[0], 2000)

        def samples() -> dict[tuple[str, ...], float]:
            text = urlopen(url, timeout=10).read().decode()
            families = list(text_string_to_metric_families(text))
            return {
                (sample.name, sample.labels.get("code") or sample.labels.get("reason", "")): sample.value
                for family in families
                for sample in family.samples
            }

        expected = {
            ("digits_requests_total", "OK"): len(channels),
            ("digits_refusals_total", "invalid_request"): 1,
            ("digits_images_total", ""): 3 * len(channels),
        }
        wait_for(lambda: expected.items() <= samples().items(), "all calls are counted")


def test_models_are_loaded_and_unloaded_through_any_front_end(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository" / "compact"
    repository.mkdir(parents=True)
    shutil.copytree(bundle, repository / "1")
    with frontends(repository.parent, tmp_path, "--model-control") as server:
        channels = connected(server.address)
        stubs = [inference_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
        statistics = stubs[0].ModelStatistics(inference_pb2.ModelStatisticsRequest(name="compact"))
        assert [each.inference_count for each in statistics.model_stats] == [0]
        stubs[0].RepositoryModelUnload(inference_pb2.RepositoryModelUnloadRequest(model_name="compact"))
        # Every front end has been told before the caller was.
        for stub in stubs:
            assert not stub.ModelReady(inference_pb2.ModelReadyRequest(name="compact")).ready
        stubs[1].RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="compact"))
        wait_for(lambda: all(map(answers_or_unknown, channels)), "every front end serves it again")
        with pytest.raises(grpc.RpcError) as unknown:
            stubs[2].RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="other"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def answers_or_unknown(channel: grpc.Channel) -> bool:
    try:
        return len(classify(channel).predictions) == 3
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False


def test_a_front_end_without_an_owner_still_ends_when_it_is_told(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with frontends(copy, tmp_path, "--grace-s", "3") as server:
        owner, first, _ = children(server)
        (copy / "manifest.json").unlink()  # no owner can start again
        owner.kill()
        first.kill()
        wait_for(lambda: "found neither manifest.json" in (tmp_path / "log").read_text(), "the reason is told")
        wait_for(lambda: len(children(server)) >= 2, "a new front end, which waits for an owner")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert time.monotonic() - started < 3
