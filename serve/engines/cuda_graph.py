"""CUDA graphs: what is put on a stream is recorded once, and from then on costs one launch.

On the driver's own calls: with cuda-core's builder, a recording that fails ends the process (as of its version 1.2).
"""

from collections.abc import Callable
from typing import Any


class CaptureError(Exception):
    """Nothing was recorded; the message says why. The stream can be used as before."""


class CudaGraph:
    """A recorded graph, bound to the stream, the buffers and the shapes that it was recorded with."""

    def __init__(self, executable: Any, stream: int) -> None:
        self._executable = executable
        self._stream = stream

    @classmethod
    def record(cls, stream: int, enqueue: Callable[[], None]) -> "CudaGraph":
        """Record what a function puts on a stream. Nothing else may be going on in this process's CUDA meanwhile.

        Args:
            stream: The stream's handle; not the default stream.
            enqueue: Called once; what it enqueues is not run.

        Raises:
            CaptureError: It failed, or something that it did cannot be recorded.
        """
        from cuda.bindings import driver

        _check(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        failure: Exception | None = None
        try:
            enqueue()
        except Exception as error:  # whatever it was, the recording has to be ended first
            failure = error
        status, graph = driver.cuStreamEndCapture(stream)
        try:
            if failure is not None:
                raise CaptureError(str(failure)) from failure
            _check((status,))
            [executable] = _check(driver.cuGraphInstantiate(graph, 0))
        finally:
            if graph is not None and int(graph):
                driver.cuGraphDestroy(graph)
        return cls(executable, stream)

    def launch(self) -> None:
        """Put the graph on its stream.

        Raises:
            CaptureError: The driver refused.
        """
        from cuda.bindings import driver

        _check(driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Give the graph's memory back."""
        from cuda.bindings import driver

        driver.cuGraphExecDestroy(self._executable)


def _check(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values in an answer of the driver.

    Raises:
        CaptureError: It says that something went wrong.
    """
    status, *values = answer
    if int(status):
        raise CaptureError(f"CUDA says {status.name}")
    return tuple(values)
