"""`python -m clients.benchmark.null_server`: answers every call, and every message of a stream, with the same bytes.

What is measured against it is the load generator itself, gRPC in Python included. The answer comes as a line of
hexadecimal digits on standard input; it prints `ready HOST:PORT` and serves until the input ends.
"""

import asyncio
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


async def _serve() -> None:
    answer = bytes.fromhex(await asyncio.to_thread(sys.stdin.readline))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Constant(answer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
