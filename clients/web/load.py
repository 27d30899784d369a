"""What a digit server has done so far, from the statistics of the Open Inference Protocol on the same port."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc.aio

from clients import access, channel
from clients.access import Tls
from clients.errors import from_status
from protos.inference import inference_pb2, inference_pb2_grpc

# The page asks again every second.
_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Totals since the server started, over all its models; two of them give the rates in between.

    Attributes:
        time_s: When they were read, on a clock that only runs forward.
        requests: Requests answered.
        failed: Requests refused, expired, cancelled or failed.
        images: Images classified.
        batches: Engine calls.
        queue_s: Time that the answered requests waited for an engine, all together.
    """

    time_s: float
    requests: int
    failed: int
    images: int
    batches: int
    queue_s: float


class LoadReader:
    """Asks one digit server for its statistics, from one event loop. An asynchronous context manager."""

    def __init__(self, address: str, *, tls: Tls | None = None, token: str | None = None) -> None:
        self.address = address
        self._metadata = access.metadata(token)
        self._channel = channel.open_aio_channel(address, tls)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def read(self) -> Load:
        """The totals of this moment.

        Raises:
            DigitError: One of its children, see `clients.errors`.
        """
        request = inference_pb2.ModelStatisticsRequest()
        try:
            response = await self._stub.ModelStatistics(request, timeout=_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_status(self.address, error.code(), error.details()) from error
        models = response.model_stats
        return Load(
            time_s=time.monotonic(),
            requests=sum(each.inference_stats.success.count for each in models),
            failed=sum(each.inference_stats.fail.count for each in models),
            images=sum(each.inference_count for each in models),
            batches=sum(each.execution_count for each in models),
            queue_s=sum(each.inference_stats.queue.ns for each in models) / 1e9,
        )
