"""ONNX Runtime on the CPU: the embedded default."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve.engines.engine import Engine, Pixels, Probabilities
from serve.errors import StartupError

GRAPH = "model.onnx"
HALF_GRAPH = "model.fp16.onnx"


class OnnxRuntimeEngine:
    """Runs a bundle's FP32 graph on the CPU."""

    name = "onnxruntime"
    device = "cpu"
    precision = "fp32"

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, pixels: Pixels) -> Probabilities:
        """See `Engine.run`."""
        probabilities: Probabilities = self._session.run(["probabilities"], {"pixels": pixels})[0]
        return probabilities


@contextmanager
def open_onnx_runtime(graph: bytes, *, threads: int = 1) -> Iterator[Engine]:
    """Load an ONNX graph of uint8 `pixels` and float32 `probabilities`.

    Args:
        graph: The serialised graph.
        threads: Threads that share one call. One is best where several engines run side by side.

    Raises:
        StartupError: ONNX Runtime is not installed, or refuses the graph.
    """
    yield OnnxRuntimeEngine(open_session(graph, threads=threads))


def open_session(graph: bytes, *, threads: int) -> Any:
    """The library's own session, with the settings that serving uses. Arguments and errors as above."""
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A waiting thread that spins takes its core from the front end.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises a dozen unrelated classes of its own
        raise StartupError(f"ONNX Runtime {onnxruntime.__version__} refuses the graph: {error}") from error


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise StartupError(
            "ONNX Runtime is not installed; install one of its two builds, never both: "
            "`pip install '.[cpu]'` without an NVIDIA GPU, `pip install '.[gpu]'` with one, in the project's folder"
        ) from error
    return onnxruntime
