"""`python -m benchmarks.stalling PERIOD_MS STALL_MS SERVICE_MS`: a server whose latency is known, because it stalls.

Once in every period it answers nobody for a while; otherwise every call takes the same time, however many there are.
So callers who do not wait for each other wait for the rest of the stall that they come in, and each of their
percentiles can be calculated: see `expected_ms`. It prints `ready HOST:PORT` and serves until SIGTERM.
"""

import asyncio
import signal
import sys

import grpc
import grpc.aio

from protos.digits.v1 import digits_pb2, digits_pb2_grpc


class StallingServer(digits_pb2_grpc.DigitRecognizerServicer):
    """Answers at its leisure; times in seconds."""

    def __init__(self, period_s: float, stall_s: float, service_s: float) -> None:
        self._period_s = period_s
        self._stall_s = stall_s
        self._service_s = service_s

    async def Classify(self, request: digits_pb2.ClassifyRequest, _: object) -> digits_pb2.ClassifyResponse:
        """Answer after the stall, if there is one."""
        phase = asyncio.get_running_loop().time() % self._period_s
        await asyncio.sleep(max(0.0, self._stall_s - phase) + self._service_s)
        predictions = [digits_pb2.Prediction(digit=7)] * (len(request.pixels) // 784)
        return digits_pb2.ClassifyResponse(model="stalling", batch_size=1, predictions=predictions)

    async def GetModel(self, _: digits_pb2.GetModelRequest, __: object) -> digits_pb2.Model:
        """Describe nothing."""
        return digits_pb2.Model(name="stalling", version="1", max_images_per_request=1024)


def expected_ms(share: float, period_ms: float, stall_ms: float, service_ms: float) -> float:
    """The percentile, 0 to 1, of callers who come at any time."""
    rest = stall_ms - (1 - share) * period_ms
    return service_ms + max(0.0, rest)


async def _serve(period_ms: float, stall_ms: float, service_ms: float) -> None:
    server = grpc.aio.server()
    digits_pb2_grpc.add_DigitRecognizerServicer_to_server(
        StallingServer(period_ms / 1e3, stall_ms / 1e3, service_ms / 1e3), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve(*map(float, sys.argv[1:])))
