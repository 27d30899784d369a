"""The Open Inference Protocol over a real socket, as NVIDIA's own client speaks it, unchanged."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from clients import AsyncDigitClient
from protos.inference import inference_pb2 as pb
from protos.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serve.errors import Unsupported
from serve.models import Models
from serve.rpc.calls import STREAM_MESSAGES
from serve.rpc.health import Health
from serve.rpc.inference import InferenceService
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Running, Serving, batcher_of

T = TypeVar("T")


def tensors(pixels: np.ndarray) -> list[triton.InferInput]:
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    return [tensor]


async def with_client(server: Running, work: Callable[[triton.InferenceServerClient], T]) -> T:
    """What the synchronous client does, on a thread of its own."""

    def run() -> T:
        with triton.InferenceServerClient(server.address) as client:
            return work(client)

    return await asyncio.to_thread(run)


def refused(work: Callable[[], object]) -> tuple[str, str]:
    """Status and message of what is refused."""
    with pytest.raises(InferenceServerException) as error:
        work()
    return error.value.status(), error.value.message()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110, nothing tells what another task has come to
        await asyncio.sleep(0.001)


class TestInference:
    async def test_the_synchronous_client_gets_probabilities_and_its_id(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> triton.InferResult:
            wanted = [triton.InferRequestedOutput("probabilities")]
            return client.infer("compact", tensors(images(9)), request_id="seven", outputs=wanted)

        async with serving(FakeEngine()) as server:
            result = await with_client(server, work)
        np.testing.assert_array_equal(result.as_numpy("probabilities"), answer_for(images(9)))
        response = result.get_response()
        assert (response.model_name, response.model_version, response.id) == ("compact", "1", "seven")

    async def test_callers_of_both_protocols_share_batches(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with (
            serving(engine) as server,
            triton_aio.InferenceServerClient(server.address) as stock,
            AsyncDigitClient(server.address) as ours,
        ):
            engine.hold()
            first = asyncio.create_task(ours.classify(images(1)))
            await asyncio.to_thread(engine.wait_until_inside)
            calls = [
                asyncio.create_task(stock.infer("compact", tensors(images(2, 1)))),
                asyncio.create_task(ours.classify(images(2, 2))),
            ]
            await until(lambda: batcher_of(server.server).counts.accepted == 3)
            engine.release()
            result, answer = await asyncio.gather(*calls)
            await first
        np.testing.assert_array_equal(result.as_numpy("probabilities"), answer_for(images(2, 1)))
        np.testing.assert_array_equal(answer.digits, answer_for(images(2, 2)).argmax(axis=1))
        assert [len(batch) for batch in engine.batches] == [1, 4]

    async def test_a_hundred_asynchronous_calls_each_get_their_own_answer(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, triton_aio.InferenceServerClient(server.address) as client:
            calls = [client.infer("compact", tensors(images(1 + seed % 5, seed))) for seed in range(100)]
            results = await asyncio.gather(*calls)
        for seed, result in enumerate(results):
            np.testing.assert_array_equal(result.as_numpy("probabilities"), answer_for(images(1 + seed % 5, seed)))

    async def test_elements_may_be_sent_one_by_one(self, serving: Serving) -> None:
        message = pb.ModelInferRequest(model_name="compact")
        tensor = message.inputs.add(name="pixels", datatype="UINT8", shape=[2, 1, 28, 28])
        tensor.contents.uint_contents.extend(images(2).flatten().tolist())
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            response = await GRPCInferenceServiceStub(channel).ModelInfer(message)
        assert response.raw_output_contents[0] == answer_for(images(2)).tobytes()

    async def test_an_image_classifier_for_any_such_model_finds_all_it_needs(self, serving: Serving) -> None:
        """What Triton's example `image_client.py` asks for and checks, in its order."""

        def work(client: triton.InferenceServerClient) -> np.ndarray:
            metadata = client.get_model_metadata("compact", "")
            config = client.get_model_config("compact", "").config
            [given], [taken], [configured] = metadata.inputs, metadata.outputs, config.input
            assert config.max_batch_size >= 3
            assert taken.datatype == "FP32"
            assert [size for size in taken.shape[1:] if size > 1] == [10]
            assert len(given.shape) == 4
            assert configured.format == model_config_pb2.ModelInput.FORMAT_NCHW
            channels, height, width = given.shape[1:]
            pixels = np.stack(list(images(3)), axis=0).reshape(3, channels, height, width)
            tensor = triton.InferInput(given.name, list(pixels.shape), given.datatype)
            tensor.set_data_from_numpy(pixels)
            wanted = [triton.InferRequestedOutput(taken.name, class_count=2)]
            return client.infer("compact", [tensor], request_id="1", outputs=wanted).as_numpy(taken.name)

        async with serving(FakeEngine()) as server:
            classes = await with_client(server, work)
        assert classes.shape == (3, 2)
        for row, found in zip(answer_for(images(3)), classes, strict=True):
            best = np.argsort(-row, kind="stable")[:2]
            assert [text.decode() for text in found] == [f"{row[digit]:f}:{digit}:{digit}" for digit in best]

    async def test_what_cannot_be_answered_is_refused_by_status(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[tuple[str, str]]:
            in_shared_memory = triton.InferInput("pixels", [1, 1, 28, 28], "UINT8")
            in_shared_memory.set_shared_memory("region", 784)
            calls: list[tuple[str, list[triton.InferInput], dict[str, Any]]] = [
                ("other", tensors(images(1)), {}),
                ("compact", tensors(images(1)), {"model_version": "7"}),
                ("compact", tensors(images(9)), {}),
                ("compact", [in_shared_memory], {}),
                ("compact", tensors(images(1)), {"outputs": [triton.InferRequestedOutput("logits")]}),
                ("compact", tensors(images(1)), {"request_id": "x" * 257}),
            ]
            return [
                refused(lambda call=call: client.infer(call[0], call[1], **call[2]))  # type: ignore[misc]
                for call in calls
            ]

        async with serving(FakeEngine(), max_images_per_request=8) as server:
            refusals = await with_client(server, work)
        assert [status.removeprefix("StatusCode.") for status, _ in refusals] == ["NOT_FOUND"] * 2 + [
            "INVALID_ARGUMENT"
        ] * 4
        for (_, message), expected in zip(
            refusals,
            ["model 'other'", "version '7'", "at most 8 are accepted", "shared memory", "'logits'", "257 characters"],
            strict=True,
        ):
            assert expected in message

    async def test_a_timeout_in_the_request_ends_it_even_inside_the_engine(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine) as server, triton_aio.InferenceServerClient(server.address) as client:
            engine.hold()
            inside = asyncio.create_task(client.infer("compact", tensors(images(1)), timeout=200_000))
            await asyncio.to_thread(engine.wait_until_inside)
            waiting = asyncio.create_task(client.infer("compact", tensors(images(2)), timeout=200_000))
            for call in (inside, waiting):
                with pytest.raises(InferenceServerException) as late:
                    await call
                assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
            engine.release()
            await client.infer("compact", tensors(images(3)))
        assert [len(batch) for batch in engine.batches] == [1, 3]

    async def test_bytes_that_are_no_message_are_refused_as_the_callers_mistake(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"\xff" * 40)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no inference.ModelInferRequest" in str(error.value.details())


class Answers:
    """Collects what the synchronous client's stream calls back with."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]] = queue.Queue()

    def __call__(self, result: triton.InferResult | None, error: InferenceServerException | None) -> None:
        self._arrived.put((result, error))

    def next(self) -> triton.InferResult | InferenceServerException:
        result, error = self._arrived.get(timeout=20)
        return result or error


class TestStream:
    async def test_answers_come_in_order_and_refusals_in_their_place(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[triton.InferResult | InferenceServerException]:
            answers = Answers()
            client.start_stream(answers)
            for number in range(3 * STREAM_MESSAGES):
                model = "other" if number == 5 else "compact"
                client.async_stream_infer(
                    model, tensors(images(1 + number % 6, number)), request_id=str(number),
                    enable_empty_final_response=True,
                )  # fmt: skip
            found = [answers.next() for _ in range(3 * STREAM_MESSAGES)]
            client.stop_stream()
            return found

        async with serving(FakeEngine()) as server:
            found = await with_client(server, work)
        for number, answer in enumerate(found):
            if number == 5:
                assert isinstance(answer, InferenceServerException)
                assert "model 'other' is not served here" in answer.message()
            else:
                assert isinstance(answer, triton.InferResult)
                assert answer.get_response().id == str(number)
                expected = answer_for(images(1 + number % 6, number))
                np.testing.assert_array_equal(answer.as_numpy("probabilities"), expected)

    async def test_the_asynchronous_client_streams(self, serving: Serving) -> None:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for seed in range(20):
                yield {"model_name": "compact", "inputs": tensors(images(2, seed)), "request_id": str(seed)}

        async with serving(FakeEngine()) as server, triton_aio.InferenceServerClient(server.address) as client:
            results = [each async for each in client.stream_infer(requests())]
        assert len(results) == 20
        for seed, (result, error) in enumerate(results):
            assert error is None
            assert result.get_response().id == str(seed)
            np.testing.assert_array_equal(result.as_numpy("probabilities"), answer_for(images(2, seed)))

    async def test_a_refusal_says_whose_request_it_answers(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            call = GRPCInferenceServiceStub(channel).ModelStreamInfer(timeout=30)
            await call.write(pb.ModelInferRequest(id="a"))
            await call.done_writing()
            response = await call.read()
        assert response.infer_response.id == "a"
        assert "0 inputs are sent" in response.error_message

    async def test_who_wants_statuses_gets_the_answers_before_the_first_refusal_and_then_its_status(
        self, serving: Serving
    ) -> None:
        good = pb.ModelInferRequest(raw_input_contents=[images(1).tobytes()])
        good.inputs.add(name="pixels", datatype="UINT8", shape=[1, 1, 28, 28])
        engine = FakeEngine()
        engine.hold()
        async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            call = stub.ModelStreamInfer(timeout=30, metadata=[("triton_grpc_error", "true")])
            for message in (good, pb.ModelInferRequest(model_name="other"), good):
                await call.write(message)
            await asyncio.to_thread(engine.wait_until_inside)
            engine.release()
            assert (await call.read()).infer_response.raw_output_contents
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert await call.code() is grpc.StatusCode.NOT_FOUND
            assert "model 'other' is not served here" in await call.details()
            # Others are served as ever, and nothing of the stream is left.
            assert (await stub.ModelInfer(good)).raw_output_contents
            counts = batcher_of(server.server).counts
            assert counts.accepted == counts.answered + counts.cancelled


class TestDescriptions:
    async def test_the_server_is_live_and_ready_and_says_what_it_can_do(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> None:
            assert client.is_server_live()
            assert client.is_server_ready()
            metadata = client.get_server_metadata()
            assert metadata.name == "digits"
            assert {"classification", "statistics", "model_repository"} <= set(metadata.extensions)

        async with serving(FakeEngine()) as server:
            await with_client(server, work)

    async def test_a_model_is_ready_and_one_that_is_not_served_is_not(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[bool]:
            asked = [("compact", ""), ("compact", "1"), ("", ""), ("compact", "2"), ("other", "")]
            return [client.is_model_ready(*each) for each in asked]

        async with serving(FakeEngine()) as server:
            assert await with_client(server, work) == [True, True, True, False, False]

    async def test_a_model_is_described_with_any_number_of_images(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> tuple[Any, Any]:
            return client.get_model_metadata("compact"), client.get_model_config("compact").config

        async with serving(FakeEngine(), max_images_per_request=7) as server:
            metadata, config = await with_client(server, work)
        assert (metadata.name, list(metadata.versions), metadata.platform) == ("compact", ["1"], "fake")
        [given], [taken] = metadata.inputs, metadata.outputs
        assert (given.name, given.datatype, list(given.shape)) == ("pixels", "UINT8", [-1, 1, 28, 28])
        assert (taken.name, taken.datatype, list(taken.shape)) == ("probabilities", "FP32", [-1, 10])
        assert (config.name, config.backend, config.max_batch_size) == ("compact", "fake", 7)
        assert list(config.dynamic_batching.preferred_batch_size) == [4]
        assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
        assert list(config.input[0].dims) == [1, 28, 28]
        assert config.output[0].data_type == model_config_pb2.TYPE_FP32
        assert list(config.output[0].dims) == [10]
        assert config.parameters["labels"].string_value == "0,1,2,3,4,5,6,7,8,9"
        assert config.parameters["device"].string_value == "cpu"

    async def test_unknown_models_have_no_description(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[str]:
            asked = (client.get_model_metadata, client.get_model_config, client.get_inference_statistics)
            return [refused(lambda ask=ask: ask("other"))[0] for ask in asked]  # type: ignore[misc]

        async with serving(FakeEngine()) as server:
            assert set(await with_client(server, work)) == {"StatusCode.NOT_FOUND"}

    async def test_a_server_that_drains_is_live_but_not_ready(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine) as server, triton_aio.InferenceServerClient(server.address) as client:
            engine.hold()
            inside = asyncio.create_task(client.infer("compact", tensors(images(1))))
            await asyncio.to_thread(engine.wait_until_inside)
            stop = asyncio.create_task(server.server.stop())
            await until(lambda: batcher_of(server.server).refusal is not None)
            assert await client.is_server_live()
            assert not await client.is_server_ready()
            assert not await client.is_model_ready("compact")
            [listed] = (await client.get_model_repository_index()).models
            assert (listed.state, listed.reason) == ("UNAVAILABLE", "the server is draining")
            with pytest.raises(InferenceServerException) as error:
                await client.infer("compact", tensors(images(1)))
            assert error.value.status() == "StatusCode.UNAVAILABLE"
            engine.release()
            assert (await inside).as_numpy("probabilities").shape == (1, 10)
            assert await stop

    async def test_health_and_reflection_know_the_service(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
            name = "inference.GRPCInferenceService"
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (
                await check(health_pb2.HealthCheckRequest(service=name))
            ).status == health_pb2.HealthCheckResponse.SERVING
            ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            [described] = [answer async for answer in ask(iter([question]))]
        assert b"ModelInferRequest" in described.file_descriptor_response.file_descriptor_proto[0]


class TestStatistics:
    async def test_requests_images_and_engine_calls_are_counted_with_their_times(self, serving: Serving) -> None:
        engine = FakeEngine()
        async with serving(engine) as server, triton_aio.InferenceServerClient(server.address) as client:
            engine.hold()
            held = asyncio.create_task(client.infer("compact", tensors(images(1))))
            await asyncio.to_thread(engine.wait_until_inside)
            queued = asyncio.create_task(client.infer("compact", tensors(images(9))))
            await until(lambda: batcher_of(server.server).counts.accepted == 2)
            await asyncio.sleep(0.05)
            engine.release()
            await asyncio.gather(held, queued)
            [model] = (await client.get_inference_statistics("compact", "1")).model_stats
            assert (await client.get_inference_statistics()).model_stats[0].name == "compact"
        assert (model.name, model.version) == ("compact", "1")
        assert (model.inference_count, model.execution_count) == (10, 4)
        stats = model.inference_stats
        parts = [stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output]
        assert {part.count for part in (stats.success, *parts)} == {2}
        assert stats.success.ns == pytest.approx(sum(part.ns for part in parts), abs=4)
        # Both waited for the 50 ms: one in the queue, the other in the engine.
        assert stats.queue.ns >= 50e6
        assert stats.compute_infer.ns >= 50e6
        assert all(part.ns > 0 for part in parts)
        assert (stats.fail.count, stats.fail.ns) == (0, 0)

    async def test_what_is_not_answered_counts_as_failed_with_the_time_it_waited(self, serving: Serving) -> None:
        def fail(_: object) -> np.ndarray:
            raise RuntimeError("broken")

        engine = FakeEngine()
        async with serving(engine) as server, triton_aio.InferenceServerClient(server.address) as client:
            engine.misbehave = [fail]
            engine.hold()
            faulty = asyncio.create_task(client.infer("compact", tensors(images(1))))
            await asyncio.to_thread(engine.wait_until_inside)
            late = asyncio.create_task(client.infer("compact", tensors(images(1)), timeout=100_000))
            outcomes = await asyncio.gather(late, return_exceptions=True)
            engine.release()
            outcomes += await asyncio.gather(faulty, return_exceptions=True)
            assert [str(outcome.status()) for outcome in outcomes] == [
                "StatusCode.DEADLINE_EXCEEDED",
                "StatusCode.INTERNAL",
            ]
            [model] = (await client.get_inference_statistics()).model_stats
        assert model.inference_stats.success.count == 0
        assert model.inference_stats.fail.count == 2
        # The faulty one was inside while the other waited for its 100 ms.
        assert model.inference_stats.fail.ns >= 200e6


class TestRepository:
    async def test_the_index_lists_what_is_served(self, serving: Serving) -> None:
        async with serving(FakeEngine()) as server, triton_aio.InferenceServerClient(server.address) as client:
            [model] = (await client.get_model_repository_index()).models
        assert (model.name, model.version, model.state, model.reason) == ("compact", "1", "READY", "")

    async def test_models_are_not_loaded_where_that_is_not_enabled(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[tuple[str, str]]:
            return [refused(lambda: client.load_model("compact")), refused(lambda: client.unload_model("compact"))]

        async with serving(FakeEngine()) as server:
            for status, message in await with_client(server, work):
                assert status == "StatusCode.UNIMPLEMENTED"
                assert "model control is not enabled" in message

    async def test_models_are_loaded_and_unloaded_by_name_and_as_they_are(self) -> None:
        class Control:
            def __init__(self) -> None:
                self.asked: list[tuple[str, str]] = []

            async def load(self, name: str) -> None:
                self.asked.append(("load", name))

            async def unload(self, name: str) -> None:
                self.asked.append(("unload", name))

        control, context = Control(), None
        service: Any = InferenceService(Models(), Health(), control)
        await service.load(pb.RepositoryModelLoadRequest(model_name="a"), context)
        await service.unload(pb.RepositoryModelUnloadRequest(model_name="b"), context)
        changed = pb.RepositoryModelLoadRequest(model_name="c")
        changed.parameters["config"].string_param = "{}"
        elsewhere = pb.RepositoryModelLoadRequest(model_name="d", repository_name="e")
        for request, message in ((changed, "parameter 'config'"), (elsewhere, "repository 'e'")):
            with pytest.raises(Unsupported, match=message):
                await service.load(request, context)
        assert control.asked == [("load", "a"), ("unload", "b")]


class TestSharedMemory:
    async def test_there_is_none_to_register_and_none_left_after_unregistering(self, serving: Serving) -> None:
        def work(client: triton.InferenceServerClient) -> list[tuple[str, str]]:
            client.unregister_system_shared_memory()
            client.unregister_cuda_shared_memory()
            return [
                refused(client.get_system_shared_memory_status),
                refused(client.get_cuda_shared_memory_status),
                refused(lambda: client.register_system_shared_memory("region", "/key", 784)),
                refused(lambda: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 784)),
            ]

        async with serving(FakeEngine()) as server:
            for status, message in await with_client(server, work):
                assert status == "StatusCode.UNIMPLEMENTED"
                assert "no shared memory; send the bytes" in message
