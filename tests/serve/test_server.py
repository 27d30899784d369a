"""The server as its operators see it: start, health, reflection, drain, refusals."""

import asyncio
import collections
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import serve.app
import serve.local_model
from clients import AsyncDigitClient, DigitClient, DigitError
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.config import ServeConfig
from serve.process import server_process
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Serving, batcher_of, serve_with

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def request(count: int, seed: int = 0) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(pixels=images(count, seed).tobytes())


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    words = [sys.executable, "-m", "serve", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


class TestAnswers:
    async def test_probabilities_digit_and_candidates_agree(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            message = request(5)
            message.top_k = 3
            response = await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(message)
        expected = answer_for(images(5))
        for prediction, row in zip(response.predictions, expected, strict=True):
            np.testing.assert_array_equal(np.array(prediction.probabilities, np.float32), row)
            order = np.argsort(-row, kind="stable")[:3]
            assert [each.digit for each in prediction.top] == order.tolist()
            assert prediction.digit == order[0]
        assert (response.model, response.version, response.batch_size) == ("compact", "1", 4)

    async def test_equal_probabilities_list_the_smaller_digit_first(self, serving: Serving) -> None:
        engine = FakeEngine()
        engine.misbehave = [lambda pixels: np.full((len(pixels), 10), 0.1, np.float32)]
        async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
            message = request(1)
            message.top_k = 10
            response = await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(message)
        assert response.predictions[0].digit == 0
        assert [each.digit for each in response.predictions[0].top] == list(range(10))

    async def test_an_engine_fault_tells_the_caller_an_id_and_the_log_the_reason(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: object) -> np.ndarray:
            raise RuntimeError("secret path /etc/model")

        engine = FakeEngine()
        engine.misbehave = [fail]
        async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await classify(request(1))
            assert len((await classify(request(2))).predictions) == 2
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(failed.value.details())
        request_id = str(failed.value.details()).split()[-1]
        assert any(request_id in record.getMessage() for record in caplog.records)
        assert "secret path" in caplog.text

    async def test_bytes_that_are_no_message_are_refused_as_the_callers_mistake(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/digits.v1.DigitRecognizer/Classify")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"\xff" * 40)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "40 bytes" in str(refused.value.details())

    async def test_a_full_queue_says_when_to_come_back(self, serving: Serving) -> None:
        engine = FakeEngine()
        options = {"queue_images": 4, "max_images_per_request": 4}
        async with serving(engine, **options) as server, grpc.aio.insecure_channel(server.address) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            engine.hold()
            inside = classify(request(4))
            await asyncio.to_thread(engine.wait_until_inside)
            queued = classify(request(4, seed=1))
            await server_has_queued(server.server, 4)
            with pytest.raises(grpc.aio.AioRpcError) as busy:
                await classify(request(1, seed=2))
            engine.release()
            await asyncio.gather(inside, queued)
        assert busy.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 4 images" in str(busy.value.details())
        assert int(dict(busy.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]) >= 1

    async def test_a_deadline_that_passes_while_waiting_never_reaches_the_engine(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            engine.hold()
            inside = classify(request(1))
            await asyncio.to_thread(engine.wait_until_inside)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await classify(request(2), timeout=0.1)
            engine.release()
            await inside
            await classify(request(3))
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [len(batch) for batch in engine.batches] == [1, 3]

    async def test_a_call_without_a_deadline_is_given_the_servers_even_inside_the_engine(
        self, serving: Serving
    ) -> None:
        engine = FakeEngine()
        options = {"max_deadline_s": 0.2, "queue_images": 9, "max_images_per_request": 9}
        async with serving(engine, **options) as server, grpc.aio.insecure_channel(server.address) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            engine.hold()
            inside = classify(request(1))
            await asyncio.to_thread(engine.wait_until_inside)
            waiting = classify(request(9))
            for late in (inside, waiting):
                with pytest.raises(grpc.aio.AioRpcError) as passed:
                    await late
                assert passed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            # What expired gives its room back although the engine is still held.
            newcomer = classify(request(9, seed=2))
            await server_has_queued(server.server, 9)
            engine.release()
            assert len((await newcomer).predictions) == 9


class TestStandardServices:
    async def test_health_is_serving_for_the_server_the_service_and_the_model(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            for name in ("", "digits.v1.DigitRecognizer", "compact"):
                assert (await check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await check(health_pb2.HealthCheckRequest(service="other"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_reflection_lists_the_services_and_describes_ours(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            questions = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="digits.v1.DigitRecognizer"),
            ]
            listed, described = [answer async for answer in ask(iter(questions))]
        names = {service.name for service in listed.list_services_response.service}
        assert {"digits.v1.DigitRecognizer", "grpc.health.v1.Health"} <= names
        assert b"ClassifyRequest" in described.file_descriptor_response.file_descriptor_proto[0]


class TestDrain:
    async def test_watchers_are_told_accepted_requests_are_answered_and_new_ones_refused(
        self, serving: Serving
    ) -> None:
        engine = FakeEngine()
        async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            engine.hold()
            inside = classify(request(1))
            await asyncio.to_thread(engine.wait_until_inside)
            waiting = classify(request(9, seed=1))
            await server_has_queued(server.server, 9)

            stop = asyncio.create_task(server.server.stop())
            assert (await watch.read()).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await classify(request(1))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not stop.done()

            engine.release()
            assert len((await inside).predictions) == 1
            assert len((await waiting).predictions) == 9
            assert await stop, "every accepted request was answered"

    async def test_when_the_grace_is_over_waiting_callers_are_told_and_the_server_stops(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine, grace_s=0.05) as server, grpc.aio.insecure_channel(server.address) as channel:
            engine.hold()
            inside = digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request(1))
            await asyncio.to_thread(engine.wait_until_inside)
            assert not await server.server.stop()
            with pytest.raises(grpc.aio.AioRpcError) as given_up:
                await inside
        assert given_up.value.code() is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_drains_a_real_process_which_ends_with_status_0(
        self, bundle: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        """Every call is answered whole or told to go elsewhere, and those that had waited longest are answered."""
        with server_process(bundle, "--queue-images", "40000", log=tmp_path / "log") as server:
            with grpc.insecure_channel(server.address) as channel:
                classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
                calls = [classify.future(request(1000, seed=seed), timeout=60) for seed in range(30)]
                calls[0].result()
                os.kill(server.pid, number)
                codes = [call.code() for call in calls]
            assert server.process.wait(30) == 0
            answered = [call for call, code in zip(calls, codes, strict=True) if code is grpc.StatusCode.OK]
            assert len(answered) >= 2
            assert {len(call.result().predictions) for call in answered} == {1000}
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}

    async def test_callers_of_a_server_that_drains_under_load_get_answers_or_are_sent_elsewhere(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        outcomes: collections.Counter[str] = collections.Counter()

        async def call(client: AsyncDigitClient, seed: int) -> None:
            while "ServerUnavailable" not in outcomes:
                try:
                    await client.classify(images(1, seed=seed))
                    outcomes["answered"] += 1
                except DigitError as error:
                    outcomes[type(error).__name__] += 1

        with server_process(bundle, log=tmp_path / "log") as server:
            async with AsyncDigitClient(server.address) as client:
                callers = [asyncio.create_task(call(client, seed)) for seed in range(32)]
                while outcomes["answered"] < 100:  # noqa: ASYNC110, the callers say when
                    await asyncio.sleep(0.01)
                server.process.terminate()
                await asyncio.gather(*callers)
            assert await asyncio.to_thread(server.process.wait, 30) == 0
        assert outcomes.keys() == {"answered", "ServerUnavailable"}


async def server_has_queued(server: object, images_waiting: int) -> None:
    queue = batcher_of(server)._queue  # type: ignore[attr-defined]
    while queue.images != images_waiting:  # noqa: ASYNC110, no event tells that a request of another process arrived
        await asyncio.sleep(0.001)


class TestStart:
    def test_a_second_signal_ends_a_drain_that_has_nothing_left_to_do_with_status_0(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        for _ in range(3):
            with server_process(bundle, log=tmp_path / "log") as server:
                server.process.send_signal(signal.SIGTERM)
                server.process.send_signal(signal.SIGINT)
                assert server.process.wait(20) == 0

    async def test_a_signal_while_the_engine_opens_ends_the_server_at_once(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opening, never = threading.Event(), threading.Event()

        @contextmanager
        def open_slowly() -> Iterator[FakeEngine]:
            opening.set()
            never.wait(60)
            yield FakeEngine()

        serve_with(monkeypatch, open_slowly, batch=4)
        dispositions = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        ready: list[int] = []
        server = asyncio.create_task(serve.app.run(ServeConfig(models=bundle, port=0, slots=1), ready.append))
        await asyncio.to_thread(opening.wait, 30)
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            assert await asyncio.wait_for(server, 20)
        finally:
            never.set()
            for number, disposition in dispositions.items():
                signal.signal(number, disposition)
        assert ready == []


class TestRefusalToStart:
    def test_a_busy_port(self, bundle: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = start(bundle, "--port", port)
        assert done.returncode == 1
        assert f"error: cannot listen on 127.0.0.1:{port}: the port is in use" in done.stderr
        assert "Traceback" not in done.stderr

    def test_two_servers_cannot_share_a_port_unseen(self, bundle: Path, tmp_path: Path) -> None:
        with server_process(bundle, log=tmp_path / "log") as server:
            done = start(bundle, "--port", server.address.split(":")[1])
            assert done.returncode == 1
            with DigitClient(server.address) as client:
                assert client.get_model().name == "compact"

    def test_no_bundle(self, tmp_path: Path) -> None:
        done = start(tmp_path / "nowhere", "--port", 0)
        assert done.returncode == 1
        assert "nowhere: found nothing, a bundle directory was expected" in done.stderr

    def test_a_changed_byte(self, bundle: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        content = bytearray((copy / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "model.onnx").write_bytes(content)
        done = start(copy, "--port", 0)
        assert done.returncode == 1
        assert "model.onnx: received" in done.stderr
        assert "changed after it was published" in done.stderr

    def test_a_missing_file(self, bundle: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        (copy / "model.onnx").unlink()
        done = start(copy, "--port", 0)
        assert done.returncode == 1
        assert "model.onnx: No such file or directory; the manifest lists this file" in done.stderr

    def test_a_newer_manifest(self, bundle: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 3, "new": "field"}))
        done = start(copy, "--port", 0)
        assert done.returncode == 1
        assert "manifest format is 3, this program reads up to 2; upgrade the server" in done.stderr

    def test_a_graph_that_the_engine_refuses(self, bundle: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        graph = b"not a graph"
        (copy / "model.onnx").write_bytes(graph)
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["files"]["model.onnx"] = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        done = start(copy, "--port", 0)
        assert done.returncode == 1
        assert "refuses the graph" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "change", ["no graph", "an unlisted graph", "other input", "too few labels", "graph with another input"]
    )
    def test_a_model_that_is_not_what_this_server_serves(self, bundle: Path, tmp_path: Path, change: str) -> None:
        copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
        manifest = json.loads((copy / "manifest.json").read_text())
        if change == "no graph":
            del manifest["files"]["model.onnx"]
            del manifest["graphs"]["model.onnx"]
        elif change == "an unlisted graph":
            del manifest["files"]["model.onnx"]
        elif change == "other input":
            manifest["input"]["dtype"] = "float32"
        elif change == "too few labels":
            manifest["labels"].pop()
        else:
            graph = (copy / "model.onnx").read_bytes().replace(b"pixels", b"pixelz")
            (copy / "model.onnx").write_bytes(graph)
            manifest["files"]["model.onnx"]["sha256"] = hashlib.sha256(graph).hexdigest()
        (copy / "manifest.json").write_text(json.dumps(manifest))
        done = start(copy, "--port", 0)
        assert done.returncode == 1
        expected = {
            "no graph": "the bundle has no model.onnx; it has model.fp16.onnx; export it again",
            "an unlisted graph": "the manifest describes 'model.onnx', which is not among its files",
            "other input": "dtype='uint8'",
            "too few labels": "the model has 9 labels, 10 were expected; export it again",
            "graph with another input": "the engine cannot run this model",
        }
        assert expected[change] in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--port", "70000"], "--port is 70000; expected 0 to 65535"),
            (["--slots", "0"], "--slots is 0; expected 1 to 256"),
            (["--max-batch", "0"], "--max-batch is 0; expected 1 to 65536"),
            (["--queue-images", "5"], "--queue-images is 5; expected 1024"),
            (["--max-deadline-s", "0"], "--max-deadline-s is 0.0; expected above 0"),
            (["--grace-s", "-1"], "--grace-s is -1.0; expected 0 to 3600"),
            (["--log-level", "loud"], "--log-level is 'loud'; expected one of debug"),
        ],
    )
    def test_a_value_out_of_range(self, bundle: Path, flags: list[str], message: str) -> None:
        done = start(bundle, *flags)
        assert done.returncode == 1
        assert f"error: {message}" in done.stderr
        assert "Traceback" not in done.stderr

    def test_help_explains_every_flag(self) -> None:
        done = start("--help")
        assert done.returncode == 0
        for flag in ("host", "port", "slots", "max-batch", "queue-images", "max-images-per-request", "max-deadline-s"):
            assert f"--{flag}" in done.stdout


class TestMemory:
    async def test_resident_memory_stays_under_250_mb_after_ten_thousand_images(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        with server_process(bundle, log=tmp_path / "log") as server:
            async with AsyncDigitClient(server.address, timeout_s=60) as client:
                for seed in range(10):
                    await asyncio.gather(*(client.classify(images(100, seed=seed)) for _ in range(10)))
            assert psutil.Process(server.pid).memory_info().rss < 250e6
