"""`python -m clients.benchmark.null_server`: answers every call, and every message of a stream, with the same bytes.

What is measured against it is the load generator itself, gRPC in Python included. The answer comes on standard input;
it prints `ready HOST:PORT` and serves until SIGTERM.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio


class Constant(grpc.GenericRpcHandler):
    """Answers every method with `answer`."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """See `grpc.GenericRpcHandler`."""
        if details.method.endswith(("ClassifyStream", "ModelStreamInfer")):
            return grpc.stream_stream_rpc_method_handler(self._each)
        return grpc.unary_unary_rpc_method_handler(self._one)

    async def _one(self, _: bytes, __: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return self._answer

    async def _each(
        self, messages: AsyncIterator[bytes], _: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> AsyncIterator[bytes]:
        async for _message in messages:
            yield self._answer


async def _serve(answer: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Constant(answer)])
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(sys.stdin.buffer.read()))
