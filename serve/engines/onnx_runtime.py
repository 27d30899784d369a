"""ONNX Runtime: on the CPU, the embedded default, and on an NVIDIA GPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bundle.manifest import INPUT, OUTPUT
from serve.engines.engine import CLASSES, IMAGE_SHAPE, Engine, Pixels, Probabilities
from serve.errors import EngineFault, EngineLost, StartupError

GRAPH = "model.onnx"
HALF_GRAPH = "model.fp16.onnx"
INT8_GRAPH = "model.int8.onnx"

_CUDA = "CUDAExecutionProvider"

# The library records CUDA graphs in a mode that any other thread's use of the GPU spoils, for both sides: while a new
# version records its own beside one that answers, that one waits.
_RECORDING = threading.Lock()


class OnnxRuntimeEngine:
    """Runs a graph on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, session: Any, precision: str) -> None:
        self.precision = precision
        self._session = session

    def run(self, pixels: Pixels) -> Probabilities:
        """See `Engine.run`."""
        probabilities: Probabilities = self._session.run([OUTPUT.name], {INPUT.name: pixels})[0]
        return probabilities


@contextmanager
def open_onnx_runtime(graph: bytes, *, threads: int = 1, precision: str = "fp32") -> Iterator[Engine]:
    """Load an ONNX graph of uint8 `pixels` and float32 `probabilities` on the CPU.

    Args:
        graph: The serialised graph.
        threads: Threads that share one call. One is best where several engines run side by side.
        precision: The graph's, for the engine's description.

    Raises:
        StartupError: ONNX Runtime is not installed, or refuses the graph.
    """
    yield OnnxRuntimeEngine(open_session(graph, threads=threads), precision)


def open_session(graph: bytes, *, threads: int) -> Any:
    """The library's own session, with the settings that serving uses. Arguments and errors as above."""
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A waiting thread that spins takes its core from the front end.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return _open(graph, options, ["CPUExecutionProvider"])


class OnnxRuntimeCudaEngine:
    """Runs a graph on the GPU: for each of a few batch sizes, buffers that stay and a CUDA graph over them."""

    name = "onnxruntime"
    device = "cuda:0"
    precision = "fp16"

    def __init__(self, session: Any, sizes: list[int]) -> None:
        self.sizes = sizes
        self._shots = [_Shot(session, size) for size in sizes]
        for shot in self._shots:  # recorded now, so that no caller waits for it
            with _RECORDING:
                shot.run(np.zeros((shot.size, *IMAGE_SHAPE), np.uint8))

    def run(self, pixels: Pixels) -> Probabilities:
        """See `Engine.run`; a batch is padded to the next of the sizes."""
        for shot in self._shots:
            if len(pixels) <= shot.size:
                with _RECORDING:
                    return shot.run(pixels)
        raise EngineFault(f"received {len(pixels)} images, at most {self.sizes[-1]} were expected")


@contextmanager
def open_onnx_runtime_cuda(graph: bytes, *, largest_batch: int) -> Iterator[Engine]:
    """Load an FP16 graph on the first GPU.

    One engine of a model: engines of this kind do not compute side by side.

    Args:
        graph: The serialised graph.
        largest_batch: Most images in one call.

    Raises:
        StartupError: ONNX Runtime, its CUDA provider, or a library that this needs is not installed; or it refuses the
            graph; or the GPU or its memory cannot be had. It never computes on the CPU instead.
    """
    onnxruntime = _import_onnxruntime()
    try:
        engine = _open_cuda(onnxruntime, graph, largest_batch)
    except StartupError:
        raise
    except Exception as error:  # the library raises a dozen unrelated classes of its own
        raise StartupError(f"ONNX Runtime {onnxruntime.__version__} cannot use the GPU: {error}") from error
    yield engine


def _open_cuda(onnxruntime: Any, graph: bytes, largest_batch: int) -> OnnxRuntimeCudaEngine:
    options = onnxruntime.SessionOptions()
    # Asked for a GPU that it cannot use, the library would compute on the CPU with no more than a warning.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # CUDA and cuDNN lie in packages of their own, where the loader does not look.
    onnxruntime.preload_dlls()
    session = _open(graph, options, [(_CUDA, {"enable_cuda_graph": "1"})])
    if session.get_providers()[0] != _CUDA:
        raise StartupError(f"ONNX Runtime took {session.get_providers()[0]} where {_CUDA} was asked for")
    doubling = [1 << exponent for exponent in range((largest_batch - 1).bit_length())]
    return OnnxRuntimeCudaEngine(session, [*doubling, largest_batch])


class _Shot:
    """One batch size. The library records a CUDA graph under its number in the first run, and replays it afterwards."""

    def __init__(self, session: Any, size: int) -> None:
        onnxruntime = _import_onnxruntime()
        self.size = size
        self._session = session
        self._pixels = np.zeros((size, *IMAGE_SHAPE), np.uint8)
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._input = allocate((size, *IMAGE_SHAPE), np.uint8, "cuda", 0)
        self._output = allocate((size, CLASSES), np.float32, "cuda", 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT.name, self._input)
        self._binding.bind_ortvalue_output(OUTPUT.name, self._output)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, pixels: Pixels) -> Probabilities:
        """Classify up to `size` images.

        Raises:
            EngineLost: CUDA failed, which it does for good.
        """
        self._pixels[: len(pixels)] = pixels
        try:
            self._input.update_inplace(self._pixels)
            self._session.run_with_iobinding(self._binding, self._options)
            probabilities: Probabilities = self._output.numpy()[: len(pixels)].copy()
        except Exception as error:  # the library raises a dozen unrelated classes of its own
            raise EngineLost(f"the GPU failed on a batch of {self.size}: {error}") from error
        return probabilities


def has_cuda() -> bool:
    """Whether the installed build of ONNX Runtime can compute on NVIDIA GPUs at all."""
    return _CUDA in _import_onnxruntime().get_available_providers()


def _open(graph: bytes, options: Any, providers: list[Any]) -> Any:
    onnxruntime = _import_onnxruntime()
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers)
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


def providers() -> list[str]:
    """What the installed build of ONNX Runtime can compute with, by the library's names, such as CPUExecutionProvider.

    Raises:
        StartupError: ONNX Runtime is not installed.
    """
    return list(_import_onnxruntime().get_available_providers())
