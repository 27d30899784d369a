"""`python -m benchmarks.echo HEX`: a gRPC server that answers every call with the same bytes.

It is what a server in Python can do at most: grpc.aio and uvloop, run as the real server runs them, and nothing behind.
It prints `ready HOST:PORT` and serves until SIGTERM.
"""

import asyncio
import signal
import sys

import grpc
import grpc.aio

from serve.config import ServeConfig
from serve.rpc.transport import channel_options
from serve.runtime import run, settle


class Echo(grpc.GenericRpcHandler):
    """Answers every unary method with `reply`."""

    def __init__(self, reply: bytes) -> None:
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._answer)
        self._reply = reply

    def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """See `grpc.GenericRpcHandler`."""
        return self._handler

    async def _answer(self, _: bytes, __: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return self._reply


async def _serve(reply: bytes) -> None:
    config = ServeConfig()
    options = channel_options(config, shares_port=False)
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=config.max_calls)
    server.add_generic_rpc_handlers([Echo(reply)])
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    settle()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    run(_serve(bytes.fromhex(sys.argv[1])))
