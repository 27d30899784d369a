"""Models come, change and go while callers are answered: real servers, real bundles, real clients."""

import asyncio
import collections
import gc
import logging
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bundle import Bundle, probe
from bundle.probe import PROBE
from clients import AsyncDigitClient, ModelNotFound
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2
from protos.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serve.app import Server, check
from serve.config import ServeConfig
from serve.engines.onnx_runtime import OnnxRuntimeEngine
from serve.engines.tuning import Tuner, Tuning
from serve.errors import LoadFailed, StartupError, UnknownModel
from serve.pictures import Pictures
from serve.process import server_process
from serve.rpc.digits import DigitRecognizer
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Serving, batcher_of, republish

HEALTH = health_pb2.HealthCheckResponse
NO_RETRIES = [("grpc.enable_retries", 0)]

Put = Callable[..., Path]
Start = Callable[..., AbstractAsyncContextManager["Running"]]


class Running:
    """A server of a repository in this process, and a client of it."""

    def __init__(self, server: Server, client: AsyncDigitClient, channel: grpc.aio.Channel) -> None:
        self.loader = server.backend._loader
        self.models = server.backend.models
        self.client = client
        self.channel = channel

    async def version(self, name: str = "", version: str = "") -> str:
        return (await self.client.classify(images(1), model=name, version=version)).version

    async def error(self, name: str = "") -> str:
        return (await self.client.get_model(model=name)).last_load_error

    def watch_health(self, service: str = "") -> Any:
        return health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest(service=service))


@pytest.fixture
def put(bundle: Path, tmp_path: Path) -> Put:
    """Publishes a bundle in the repository."""

    def publish(name: str = "compact", version: int = 1, **changes: Any) -> Path:
        path = tmp_path / "models" / name / str(version)
        return republish(bundle, path, **({"name": name, "version": str(version)} | changes))

    return publish


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A server of the repository that `put` fills."""

    @asynccontextmanager
    async def run(**options: Any) -> AsyncIterator[Running]:
        defaults = {"models": tmp_path / "models", "port": 0, "slots": 1, "check_latency_ms": 10_000.0}
        server = Server(ServeConfig(**(defaults | options)))
        address = f"127.0.0.1:{await server.start()}"
        try:
            async with AsyncDigitClient(address, timeout_s=60) as client, grpc.aio.insecure_channel(address) as channel:
                yield Running(server, client, channel)
        finally:
            assert await server.stop()

    return run


@pytest.fixture(scope="session")
def wrong_probe(bundle: Path) -> dict[str, bytes]:
    """A probe set that no model of this project answers: each probability is another digit's."""
    examples = probe.read(Bundle.open(bundle).read(PROBE))
    turned = [each._replace(probabilities=each.probabilities[1:] + each.probabilities[:1]) for each in examples]
    return {PROBE: probe.write(turned)}


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110, nothing tells a client that a server has noticed a change
        await asyncio.sleep(0.01)


class TestStart:
    async def test_the_latest_version_of_each_model_is_served(self, put: Put, start: Start) -> None:
        for name, version in (("a", 1), ("a", 10), ("a", 9), ("b", 3)):
            put(name, version)
        async with start() as server:
            assert [await server.version(name) for name in "ab"] == ["10", "3"]
            with pytest.raises(ModelNotFound, match="version '9' of 'a' is not served here; '10' is"):
                await server.version("a", "9")
            with pytest.raises(ModelNotFound, match="there is no default; name one of 'a', 'b'"):
                await server.version()

    async def test_all_versions_or_some_are_served_where_that_is_asked_for(self, put: Put, start: Start) -> None:
        for version in (1, 2, 3):
            put(version=version)
        async with start(versions="all") as server:
            assert [await server.version(version=each) for each in ("1", "2", "3", "")] == ["1", "2", "3", "3"]
        async with start(versions="1,2") as server:
            assert [await server.version(version=each) for each in ("1", "2", "")] == ["1", "2", "2"]
            with pytest.raises(ModelNotFound):
                await server.version(version="3")
        with pytest.raises(StartupError, match=r"--versions 7: .*models has none of them"):
            async with start(versions="7"):
                pass

    async def test_the_default_model_answers_where_none_is_named(self, put: Put, start: Start) -> None:
        put("a")
        put("b", 2)
        async with start(default_model="b") as server:
            assert await server.version() == "2"
        with pytest.raises(StartupError, match="--default-model is 'c'; one of a, b was expected"):
            async with start(default_model="c"):
                pass

    async def test_what_is_broken_is_named_and_what_came_before_it_is_served(
        self, put: Put, start: Start, wrong_probe: dict[str, bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        put(version=1)
        put(version=2, files=wrong_probe)
        (put(version=3) / "model.onnx").unlink()
        shutil.copytree(put("other", 1), put("other", 1).parent / "5")
        async with start() as server:
            assert await server.version("compact") == "1"
            assert await server.version("other") == "1"
            assert "compact/3/model.onnx: No such file" in await server.error("compact")
            assert (server.models.loads["compact"].succeeded, server.models.loads["compact"].failed) == (1, 2)
        assert "models/compact/2: the model fails its check: it names the reference's digit on 0 of" in caplog.text
        assert "models/other/5: the manifest is of other version 1, other version 5 was expected" in caplog.text

    async def test_where_nothing_can_be_served_the_server_does_not_start(
        self, put: Put, start: Start, wrong_probe: dict[str, bytes]
    ) -> None:
        put("a", files=wrong_probe)
        (put("b") / "model.onnx").unlink()
        with pytest.raises(StartupError, match=r"models/a/1: the model fails .*models/b/1/model\.onnx: No such file"):
            async with start():
                pass

        async def ended() -> bool:
            return not engine_threads()

        await until(ended)

    async def test_a_model_that_takes_too_long_is_not_served(self, put: Put, start: Start) -> None:
        put()
        with pytest.raises(StartupError, match=r"a call takes .* ms, at most 0\.001 was expected \(--check-latency-ms"):
            async with start(check_latency_ms=0.001):
                pass

    async def test_a_bundle_without_a_probe_set_is_served_with_a_warning(
        self, unprobed: Path, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with start(models=unprobed) as server:
            assert await server.version() == "1"
        assert f"{unprobed} has no probe.bin, so its answers are not checked" in caplog.text

    def test_check_asks_in_the_batches_of_a_server(
        self, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put()
        sizes = set()
        run = OnnxRuntimeEngine.run
        monkeypatch.setattr(OnnxRuntimeEngine, "run", lambda self, pixels: sizes.add(len(pixels)) or run(self, pixels))
        monkeypatch.setattr(Tuner, "tune", lambda *_, **__: Tuning(slots=1, batch=16))
        assert len(list(check(ServeConfig(models=tmp_path / "models", check_latency_ms=10_000.0)))) == 1
        assert max(sizes) == 16

    def test_check_has_a_line_for_each_bundle_and_fails_if_one_does(self, put: Put, tmp_path: Path) -> None:
        def check(*flags: str) -> subprocess.CompletedProcess[str]:
            words = [sys.executable, "-m", "serve", str(tmp_path / "models"), "--check", *flags]
            return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

        put("a", 1)
        put("a", 2)
        whole = check()
        assert (whole.returncode, whole.stderr) == (0, "")
        assert [line.split(" is ")[1].split(";")[0] for line in whole.stdout.splitlines()] == [
            "a version 1",
            "a version 2",
        ]
        for flags, reason in (
            (("--default-model", "b"), "--default-model is 'b'; one of a was expected"),
            (("--versions", "7"), f"--versions 7: {tmp_path / 'models'} has none of them"),
        ):
            refused = check(*flags)
            assert (refused.returncode, refused.stderr) == (1, f"error: {reason}\n")
        (put("b") / "model.onnx").unlink()
        broken = check()
        assert (broken.returncode, broken.stdout) == (1, whole.stdout)
        assert "models/b/1/model.onnx: No such file" in broken.stderr


class TestSwap:
    async def test_whoever_has_found_a_model_has_been_accepted_by_it_before_anything_else_runs(
        self, serving: Serving
    ) -> None:
        """What the exchange rests on: between finding and submitting there is no turn of the loop to drain in."""

        class Context:
            def time_remaining(self) -> float:
                return 30.0

        engine = FakeEngine()
        async with serving(engine) as running:
            servicer = DigitRecognizer(running.server.backend.models, Pictures(ServeConfig()))
            request = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())
            counts = batcher_of(running.server).counts
            call = asyncio.ensure_future(servicer.classify(request, Context()))  # type: ignore[arg-type]
            await asyncio.sleep(0)  # its first step, and no other
            assert counts.accepted == 1
            await call

    @pytest.mark.parametrize("frontends", ["0", "2"])
    async def test_under_load_every_request_is_answered_through_many_swaps(
        self, bundle: Path, tmp_path: Path, frontends: str
    ) -> None:
        """A bundle that is replaced in place, five times; the callers repeat nothing."""
        path = republish(bundle, tmp_path / "bundle")
        outcomes: collections.Counter[str] = collections.Counter()
        latest = "1"

        async def call(stub: Any, seed: int) -> None:
            request = digits_pb2.ClassifyRequest(pixels=images(1 + seed % 5, seed).tobytes())
            while latest != "6":
                try:
                    outcomes[(await stub.Classify(request, timeout=30)).version] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[f"{error.code()}: {error.details()}"] += 1

        async def stream(stub: Any) -> None:
            call = stub.ClassifyStream(timeout=60)
            while latest != "6":
                await call.write(digits_pb2.ClassifyRequest(pixels=images(2).tobytes()))
                answer = await call.read()
                outcomes[answer.response.version or str(answer.refusal)] += 1
            await call.done_writing()

        async def infer(stub: Any) -> None:
            tensor = inference_pb2.ModelInferRequest.InferInputTensor(
                name="pixels", datatype="UINT8", shape=[1, 1, 28, 28]
            )
            pixels = [images(1).tobytes()]
            request = inference_pb2.ModelInferRequest(model_name="compact", inputs=[tensor], raw_input_contents=pixels)
            while latest != "6":
                outcomes[(await stub.ModelInfer(request, timeout=30)).model_version] += 1

        flags = ("--watch", "--check-latency-ms", "10000", "--frontends", frontends)
        with server_process(path, *flags, log=tmp_path / "log") as server:
            async with grpc.aio.insecure_channel(server.address, options=NO_RETRIES) as channel:
                stub = digits_pb2_grpc.DigitRecognizerStub(channel)
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == HEALTH.SERVING
                changed = asyncio.ensure_future(watch.read())
                callers = [asyncio.create_task(call(stub, seed)) for seed in range(16)]
                callers.append(asyncio.create_task(stream(stub)))
                callers.append(asyncio.create_task(infer(GRPCInferenceServiceStub(channel))))
                for version in "23456":
                    await asyncio.to_thread(republish, bundle, path, version=version)

                    async def answers() -> bool:
                        return outcomes[version] > 0  # noqa: B023, awaited here

                    await until(answers)
                    latest = version
                await asyncio.gather(*callers)
                assert not changed.done(), "health changed during a swap"
                changed.cancel()
        assert outcomes.keys() == set("123456")
        assert outcomes.total() > 200

    async def test_what_the_old_model_has_accepted_it_answers_and_then_it_is_closed(
        self, unprobed: Path, tmp_path: Path, serving: Serving
    ) -> None:
        path = republish(unprobed, tmp_path / "bundle")
        engine = FakeEngine()
        async with serving(engine, models=path) as running, AsyncDigitClient(running.address) as client:
            loader, old = running.server.backend._loader, batcher_of(running.server)
            engine.hold()
            inside = asyncio.create_task(client.classify(images(1)))
            await asyncio.to_thread(engine.wait_until_inside)
            waiting = asyncio.create_task(client.classify(images(9)))
            while old.counts.accepted < 2:  # noqa: ASYNC110, no event tells of an arrival
                await asyncio.sleep(0.001)
            republish(unprobed, path, version="2")
            await loader.load("compact")
            assert (await client.get_model()).version == "2"
            assert not inside.done()
            closing = list(loader._retiring.values())
            engine.release()
            assert ((await inside).version, (await waiting).version) == ("1", "1")
            await asyncio.wait(closing)
            assert (await client.classify(images(1))).version == "2"
            assert loader._retiring == {}

    async def test_a_version_that_fails_its_check_leaves_the_old_one_and_says_why(
        self, put: Put, start: Start, wrong_probe: dict[str, bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        put(version=1)
        async with start() as server:
            put(version=2, files=wrong_probe)
            with pytest.raises(LoadFailed, match="compact/2: the model fails its check: it names the reference's"):
                await server.loader.load("compact")
            assert await server.version() == "1"
            assert (await server.error()).startswith("compact/2: the model fails its check")
            assert "models/compact/2: the model fails its check" in caplog.text
            loads = server.models.loads["compact"]
            assert (loads.succeeded, loads.failed) == (1, 1)
            await server.loader._refresh()
            assert loads.failed == 1, "what has not changed is not tried again by itself"
            put(version=2)
            await server.loader.load("compact")
            assert (await server.version(), await server.error()) == ("2", "")

    async def test_loads_of_one_name_come_one_after_the_other(self, put: Put, start: Start) -> None:
        put(version=1)
        async with start() as server:
            put(version=2)
            await asyncio.gather(*(server.loader.load("compact") for _ in range(5)))
            assert await server.version() == "2"
            assert server.models.loads["compact"].succeeded == 2

    async def test_a_load_that_is_given_up_leaves_nothing_behind(self, put: Put, start: Start) -> None:
        put(version=1)
        async with start() as server:
            put(version=2)
            load = asyncio.create_task(server.loader.load("compact"))
            await asyncio.sleep(0)
            load.cancel()
            await asyncio.wait({load})
            assert await server.version() == "1"
            await server.loader.load("compact")
            assert await server.version() == "2"


class TestControl:
    async def test_an_unloaded_model_is_forgotten_until_it_is_loaded_again(self, put: Put, start: Start) -> None:
        put("a")
        put("b")
        async with start() as server:
            whole, one = server.watch_health(), server.watch_health("a")
            assert [(await each.read()).status for each in (whole, one)] == [HEALTH.SERVING] * 2
            await server.loader.unload("a")
            assert (await one.read()).status == HEALTH.SERVICE_UNKNOWN
            with pytest.raises(ModelNotFound, match="model 'a' is not served here; 'b' is"):
                await server.version("a")
            assert await server.version() == "1", "b is the only one, and so the default"
            put("a", 2)
            await server.loader._refresh()
            with pytest.raises(ModelNotFound):
                await server.version("a")
            await server.loader.load("a")
            assert (await one.read()).status == HEALTH.SERVING
            assert await server.version("a") == "2"
            other = asyncio.ensure_future(whole.read())
            await server.loader.unload("b")
            assert not other.done(), "the server as a whole was serving all the time"
            other.cancel()

    async def test_the_last_model_can_go_and_come_back(self, put: Put, start: Start) -> None:
        put()
        async with start() as server:
            health = server.watch_health()
            assert (await health.read()).status == HEALTH.SERVING
            await server.loader.unload("compact")
            assert (await health.read()).status == HEALTH.NOT_SERVING
            with pytest.raises(ModelNotFound):
                await server.version()
            await server.loader.load("compact")
            assert (await health.read()).status == HEALTH.SERVING
            assert await server.version() == "1"
            await server.loader.unload("compact")  # a server of nothing stops as well

    async def test_names_that_are_not_there_are_named(self, put: Put, start: Start) -> None:
        put()
        async with start() as server:
            with pytest.raises(UnknownModel, match="there is no model 'other' to load; there is compact"):
                await server.loader.load("other")
            with pytest.raises(UnknownModel, match="model 'other' is not served here"):
                await server.loader.unload("other")
            await server.loader.unload("compact")
            with pytest.raises(UnknownModel):
                await server.loader.unload("compact")

    async def test_callers_load_and_unload_where_that_is_allowed_and_are_told_why_it_failed(
        self, put: Put, start: Start, wrong_probe: dict[str, bytes]
    ) -> None:
        put("a")
        put("b")
        load, unload = inference_pb2.RepositoryModelLoadRequest, inference_pb2.RepositoryModelUnloadRequest
        async with start(model_control=True) as server:
            stub = GRPCInferenceServiceStub(server.channel)
            put("a", 2, files=wrong_probe)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.RepositoryModelLoad(load(model_name="a"))
            assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert str(failed.value.details()).startswith("a/2: the model fails its check")
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.RepositoryModelLoad(load(model_name="c"))
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
            await stub.RepositoryModelUnload(unload(model_name="a"))
            with pytest.raises(ModelNotFound):
                await server.version("a")
            put("a", 2)
            await stub.RepositoryModelLoad(load(model_name="a"))
            assert await server.version("a") == "2"

    async def test_a_load_that_leaves_nothing_served_says_why(self, put: Put, start: Start, tmp_path: Path) -> None:
        put()
        put("other", 7)
        async with start(versions="1", model_control=True) as server:
            stub = GRPCInferenceServiceStub(server.channel)

            async def failure(name: str) -> str:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await stub.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name=name))
                assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                return str(failed.value.details())

            assert await failure("other") == "--versions is 1; of 'other' there is 7"
            (tmp_path / "models").rename(tmp_path / "elsewhere")
            assert "found nothing, a bundle directory was expected" in await failure("compact")
            assert await server.version() == "1"

    async def test_unload_returns_when_what_was_accepted_is_answered(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine) as running, AsyncDigitClient(running.address) as client:
            engine.hold()
            inside = asyncio.create_task(client.classify(images(1)))
            await asyncio.to_thread(engine.wait_until_inside)
            unload = asyncio.create_task(running.server.backend._loader.unload("compact"))
            with pytest.raises(ModelNotFound):
                await client.get_model()
            assert not unload.done()
            engine.release()
            assert (await inside).version == "1"
            await unload


class TestWatch:
    async def test_new_and_removed_versions_and_models_are_noticed(
        self, put: Put, start: Start, tmp_path: Path
    ) -> None:
        put("a")
        async with start(watch=True) as server:
            put("a", 2)
            await until(lambda: serves(server, "a", "2"))
            put("b")
            await until(lambda: serves(server, "b", "1"))
            shutil.rmtree(tmp_path / "models/a/2")
            await until(lambda: serves(server, "a", "1"))
            health = server.watch_health("b")
            assert (await health.read()).status == HEALTH.SERVING
            shutil.rmtree(tmp_path / "models/b")
            assert (await health.read()).status == HEALTH.SERVICE_UNKNOWN
            assert await server.version() == "1"

    async def test_a_version_that_is_asked_for_and_removed_goes_though_others_lie_there(
        self, put: Put, start: Start
    ) -> None:
        removed = put("a", 1)
        put("a", 2)
        put("b", 1)
        async with start(watch=True, versions="1") as server:
            assert await server.version("a") == "1"
            health = server.watch_health("a")
            assert (await health.read()).status == HEALTH.SERVING
            shutil.rmtree(removed)
            assert (await health.read()).status == HEALTH.SERVICE_UNKNOWN
            assert await server.version() == "1"

    async def test_a_half_written_bundle_is_tried_again_when_it_is_whole(
        self, put: Put, start: Start, tmp_path: Path
    ) -> None:
        put(version=1)
        whole = Path(shutil.move(put(version=2), tmp_path / "whole"))
        async with start(watch=True) as server:
            target = tmp_path / "models/compact/2"
            target.mkdir()
            shutil.copy(whole / "manifest.json", target)
            graph = (whole / "model.onnx").read_bytes()
            (target / "model.onnx").write_bytes(graph[:1000])

            async def half() -> bool:
                return "compact/2/model.onnx: received 1000 bytes" in await server.error()

            for file in whole.iterdir():  # noqa: ASYNC240
                if file.name != "model.onnx":
                    shutil.copy(file, target)
            await until(half)
            assert await server.version() == "1"
            (target / "model.onnx").write_bytes(graph)
            await until(lambda: serves(server, "compact", "2"))
            assert await server.error() == ""

    @pytest.mark.parametrize("way", ["exchanged", "by a link", "file by file"])
    async def test_a_bundle_by_itself_that_is_replaced_is_noticed_each_time(
        self, bundle: Path, tmp_path: Path, start: Start, way: str
    ) -> None:
        folder = tmp_path / "somewhere"
        path = folder / "bundle"
        first = republish(bundle, tmp_path / "1" if way == "by a link" else path)
        if way == "by a link":
            folder.mkdir()
            path.symlink_to(first)
        async with start(models=path, watch=True) as server:
            for version in ("2", "3"):
                if way == "exchanged":
                    republish(bundle, path, version=version)
                elif way == "by a link":
                    (folder / "new").symlink_to(republish(bundle, tmp_path / version, version=version))
                    (folder / "new").rename(path)
                else:
                    for file in republish(bundle, tmp_path / version, version=version).iterdir():
                        shutil.copy(file, path)
                await until(lambda: serves(server, "compact", version))  # noqa: B023, awaited here

    async def test_where_everything_disappears_what_is_served_stays(
        self, put: Put, start: Start, tmp_path: Path
    ) -> None:
        put()
        async with start(watch=True) as server:
            (tmp_path / "models").rename(tmp_path / "elsewhere")

            async def complains() -> bool:
                return "found nothing" in await server.error()

            await until(complains)
            assert await server.version() == "1"
            put(version=2)
            await until(lambda: serves(server, "compact", "2"))
            assert await server.error() == ""


async def serves(server: Running, name: str, version: str) -> bool:
    try:
        return (await server.client.get_model(model=name)).version == version
    except ModelNotFound:
        return False


class TestReloads:
    async def test_twenty_reloads_leave_no_thread_no_file_and_no_model_behind(
        self, put: Put, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without the garbage collector: a model that refers to itself would wait for it, with all its memory."""
        caplog.set_level(logging.WARNING)  # pytest keeps what is logged, and with it the models that are named there
        process = psutil.Process()
        put()
        async with start() as server:

            async def reload() -> None:
                put()
                await server.loader.load("compact")
                await asyncio.gather(*server.loader._retiring.values())
                assert await server.version() == "1"

            def resources() -> tuple[int, int, int]:
                # Threads of Python and of libraries, apart: asyncio starts a few workers as it needs them.
                others = process.num_threads() - threading.active_count()
                return len(engine_threads()), others, process.num_fds()

            async def all_is_as_before() -> bool:
                return resources() == before

            await reload()
            gc.collect()
            gc.disable()
            try:
                before = resources()
                models = []
                for _ in range(20):
                    models += [weakref.ref(model) for model in server.models]
                    await reload()
                await until(all_is_as_before)
                assert [each() for each in models] == [None] * 20
            finally:
                gc.enable()
            assert server.models.loads["compact"].succeeded == 22
            assert np.isfinite((await server.client.classify(images(1))).predictions[0].probabilities).all()
