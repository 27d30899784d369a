"""The RPCs of `inference.GRPCInferenceService`, the Open Inference Protocol: parse, classify, format."""

import functools
import importlib.metadata

import grpc

from protos.inference import inference_pb2 as pb
from serve.errors import Unavailable, UnknownModel, Unsupported
from serve.model import Model
from serve.models import ModelControl, Models
from serve.rpc.calls import Call, Context, Observers, service, stream, unary
from serve.rpc.health import Health
from serve.rpc.inference_wire import (
    read_classes,
    read_id,
    read_pixels,
    read_timeout_s,
    write_answer,
    write_config,
    write_index,
    write_metadata,
    write_refusal,
    write_statistics,
    write_streamed,
)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_DISTRIBUTION = "digits"

# By Triton's names, which tools look for.
_EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")


class InferenceService:
    """Each method returns the serialised response.

    Args:
        models: What answers.
        health: Whether the server is ready.
        control: Loads and unloads models; None where that is not allowed.
    """

    def __init__(self, models: Models[Model], health: Health, control: ModelControl | None = None) -> None:
        self._models = models
        self._health = health
        self._control = control

    async def server_live(self, request: pb.ServerLiveRequest, call: Call) -> bytes:
        """See `ServerLive` in inference.proto."""
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, request: pb.ServerReadyRequest, call: Call) -> bytes:
        """See `ServerReady` in inference.proto."""
        return pb.ServerReadyResponse(ready=self._health.serving()).SerializeToString()

    async def model_ready(self, request: pb.ModelReadyRequest, call: Call) -> bytes:
        """See `ModelReady` in inference.proto."""
        try:
            ready = _is_ready(self._models.find(request.name, request.version))
        except (UnknownModel, Unavailable):
            ready = False
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def server_metadata(self, request: pb.ServerMetadataRequest, call: Call) -> bytes:
        """See `ServerMetadata` in inference.proto."""
        return pb.ServerMetadataResponse(
            name=_DISTRIBUTION, version=_version(), extensions=_EXTENSIONS
        ).SerializeToString()

    async def model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> bytes:
        """See `ModelMetadata` in inference.proto."""
        call.model = model = self._models.find(request.name, request.version).description
        versions = [each.description.version for each in self._models if each.description.name == model.name]
        return write_metadata(model, versions)

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> bytes:
        """See `ModelInfer` in inference.proto."""
        model = self._models.find(request.model_name, request.model_version)
        call.model = model.description
        request_id = read_id(request)
        classes = read_classes(request)
        timeout_s = read_timeout_s(request, call.time_remaining())
        pixels = read_pixels(request, max_images=model.description.max_images_per_request)
        call.images = len(pixels)
        call.answer = await model.classify(pixels, timeout_s=timeout_s)
        return write_answer(call.answer, model.description, classes=classes, request_id=request_id)

    async def model_config(self, request: pb.ModelConfigRequest, call: Call) -> bytes:
        """See `ModelConfig` in inference.proto."""
        call.model = self._models.find(request.name, request.version).description
        return write_config(call.model)

    async def model_statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> bytes:
        """See `ModelStatistics` in inference.proto."""
        models = [
            model
            for model in self._models
            if request.name in ("", model.description.name) and request.version in ("", model.description.version)
        ]
        # Raises what says why there is none.
        models = models or [self._models.find(request.name, request.version)]
        return write_statistics([(model.description, await model.counts()) for model in models])

    async def repository_index(self, request: pb.RepositoryIndexRequest, call: Call) -> bytes:
        """See `RepositoryIndex` in inference.proto."""
        _refuse_repository(request.repository_name)
        return write_index(model for model in self._models if _is_ready(model) or not request.ready)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> bytes:
        """See `RepositoryModelLoad` in inference.proto."""
        _refuse_repository(request.repository_name)
        if request.parameters:
            raise Unsupported(
                f"parameter {min(request.parameters)!r:.80} is sent; a model is loaded as its bundle has it, with none"
            )
        await self._allowed_control().load(request.model_name)
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> bytes:
        """See `RepositoryModelUnload` in inference.proto."""
        _refuse_repository(request.repository_name)
        await self._allowed_control().unload(request.model_name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    async def shared_memory(self, request: pb.SharedMemoryRequest, call: Call) -> bytes:
        """See `SystemSharedMemoryRegister` in inference.proto, and the others that are UNIMPLEMENTED."""
        raise Unsupported("this server has no shared memory; send the bytes with the request")

    async def unregister_shared_memory(self, request: pb.SharedMemoryRequest, call: Call) -> bytes:
        """See `SystemSharedMemoryUnregister` in inference.proto."""
        return pb.SharedMemoryResponse().SerializeToString()

    def _allowed_control(self) -> ModelControl:
        if self._control is None:
            raise Unsupported("model control is not enabled: this server does not load or unload models on request")
        return self._control


def handler(servicer: InferenceService, observers: Observers) -> grpc.GenericRpcHandler:
    """The servicer's methods as gRPC wants them."""
    return service(
        SERVICE,
        {
            "ServerLive": unary(servicer.server_live, pb.ServerLiveRequest),
            "ServerReady": unary(servicer.server_ready, pb.ServerReadyRequest),
            "ModelReady": unary(servicer.model_ready, pb.ModelReadyRequest),
            "ServerMetadata": unary(servicer.server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": unary(servicer.model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": unary(servicer.model_infer, pb.ModelInferRequest),
            "ModelStreamInfer": stream(
                servicer.model_infer,
                pb.ModelInferRequest,
                write_answer=write_streamed,
                write_refusal=write_refusal,
                ends_refused=_wants_status,
            ),
            "ModelConfig": unary(servicer.model_config, pb.ModelConfigRequest),
            "ModelStatistics": unary(servicer.model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": unary(servicer.repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": unary(servicer.load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": unary(servicer.unload, pb.RepositoryModelUnloadRequest),
            "SystemSharedMemoryStatus": unary(servicer.shared_memory, pb.SharedMemoryRequest),
            "SystemSharedMemoryRegister": unary(servicer.shared_memory, pb.SharedMemoryRequest),
            "SystemSharedMemoryUnregister": unary(servicer.unregister_shared_memory, pb.SharedMemoryRequest),
            "CudaSharedMemoryStatus": unary(servicer.shared_memory, pb.SharedMemoryRequest),
            "CudaSharedMemoryRegister": unary(servicer.shared_memory, pb.SharedMemoryRequest),
            "CudaSharedMemoryUnregister": unary(servicer.unregister_shared_memory, pb.SharedMemoryRequest),
        },
        observers,
    )


def _wants_status(context: Context) -> bool:
    return ("triton_grpc_error", "true") in (context.invocation_metadata() or ())


def _is_ready(model: Model) -> bool:
    return model.refusal is None


def _refuse_repository(name: str) -> None:
    if name:
        raise Unsupported(f"repository {name!r:.80} is named; this server has one only, which has no name")


@functools.cache
def _version() -> str:
    """Of this program; empty where it runs from a folder without having been installed."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""
