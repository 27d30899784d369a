"""TensorRT on an NVIDIA GPU, without PyTorch: the serving side's one door to TensorRT.

For each of a few batch sizes everything from the copy of the pixels to the copy of the answer is recorded once, as a
CUDA graph over buffers of its own, and then costs one launch. A batch is padded to the next of these sizes: what the
padding holds does not matter, since an image's answer does not depend on its company, which the parity gate checks.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bundle.manifest import INPUT, OUTPUT, Plan, Profile
from serve.engines import products
from serve.engines.cuda_graph import CaptureError, CudaGraph
from serve.engines.engine import CLASSES, IMAGE_BYTES, IMAGE_SHAPE, Engine, Pixels, Probabilities
from serve.engines.gpu import INSTALL
from serve.errors import EngineFault, EngineLost, StartupError

if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = products.module()

log = logging.getLogger(__name__)

_FLOAT_BYTES = 4

# Errors that are remembered at a time.
_ERRORS = 20

# While one engine records its graphs, others of this process must leave the GPU alone.
_OPENING = threading.Lock()

# Without a GPU the library remarks on that in every step; why something failed is the other errors, if there are any.
_ECHOES = ("cudaError 35", "CUDA driver version is insufficient", "CUDA initialization failure")


class Logger(trt.ILogger):
    """Keeps the latest errors and passes warnings on."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: deque[str] = deque(maxlen=_ERRORS)
        self._echoes: deque[str] = deque(maxlen=1)

    def log(self, severity: "trt.ILogger.Severity", message: str) -> None:
        """Called by the library."""
        text = message.strip()
        if any(echo in text for echo in _ECHOES):
            self._echoes.append(text)
        elif severity <= trt.ILogger.Severity.ERROR:
            self._errors.append(text)
        elif severity == trt.ILogger.Severity.WARNING:
            log.warning("TensorRT: %s", text)

    def clear(self) -> None:
        """Forget all errors, before a call whose own are wanted."""
        self._errors.clear()
        self._echoes.clear()

    def reasons(self) -> str:
        """All errors since then, each once."""
        return "; ".join(dict.fromkeys(self._errors or self._echoes)) or "it gave no reason"


# The library takes one logger per process, and ignores others.
LOGGER = Logger()


class TensorRtEngine:
    """Runs a plan on the GPU, from the thread that opened it."""

    device = "cuda:0"

    def __init__(self, shots: Sequence["_Shot"], plan: Plan) -> None:
        self.name = plan.product
        self.precision = plan.precision
        self._shots = shots

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that it computes; smaller batches are padded to the next."""
        return [shot.size for shot in self._shots]

    @property
    def recorded(self) -> list[int]:
        """Those of them that are CUDA graphs."""
        return [shot.size for shot in self._shots if shot.recorded]

    def run(self, pixels: Pixels) -> Probabilities:
        """See `Engine.run`; at most as many images as the plan's largest batch."""
        for shot in self._shots:
            if len(pixels) <= shot.size:
                return shot.run(pixels)
        raise EngineFault(f"received {len(pixels)} images, the plan takes at most {self._shots[-1].size}")

    def device_seconds(self, size: int) -> float:
        """How long the GPU takes for a batch, copies included, launched many times without a pause."""
        return next(shot for shot in self._shots if size <= shot.size).device_seconds()


@contextmanager
def open_tensorrt(content: bytes, plan: Plan, *, own: bool = False) -> Iterator[Engine]:
    """Load a plan on this thread.

    Args:
        content: The plan. It is a program: digests say that it is the one that was published, not who published it.
        plan: What the manifest says of it.
        own: It was built by this process, and may bring code of its own, as version-compatible plans do.

    Raises:
        StartupError: The plan is not for this machine, or the GPU or its memory cannot be had.
    """
    try:
        from cuda.core import Device
    except ImportError as error:
        raise StartupError(f"cuda-core is not installed; {INSTALL}") from error
    with ExitStack() as stack:
        try:
            with _OPENING:
                device = Device(0)
                device.set_current()
                stream = device.create_stream()
                stack.callback(stream.close)
                engine = _load(content, plan, own=own)
                shots = []
                for size, profile in _sizes(plan.profiles):
                    shots.append(_open_shot(engine, device, stream, size, profile))
                    stack.callback(shots[-1].close)
        except StartupError:
            raise
        except Exception as error:  # CUDA's libraries raise a dozen unrelated classes
            raise StartupError(f"the GPU cannot be used: {error}") from error
        yield TensorRtEngine(shots, plan)


def _load(content: bytes, plan: Plan, *, own: bool) -> "trt.ICudaEngine":
    LOGGER.clear()
    runtime = trt.Runtime(LOGGER)
    if own:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise StartupError(
            f"{plan.product} {trt.__version__} refuses the plan ({LOGGER.reasons()}); "
            "build it on this machine with python -m export.to_trt --bundle DIR"
        )
    return engine


def _sizes(profiles: Sequence[Profile]) -> Iterator[tuple[int, int]]:
    """The batch sizes to record, smallest first, each with the index of the profile that is tuned nearest to it."""
    low, high = min(profile.min for profile in profiles), max(profile.max for profile in profiles)
    tuned = {profile.opt for profile in profiles}
    doubling = {1 << exponent for exponent in range(high.bit_length()) if low <= 1 << exponent <= high}
    for size in sorted({low, high, *tuned, *doubling}):
        fitting = [index for index, profile in enumerate(profiles) if profile.min <= size <= profile.max]
        if fitting:
            yield size, min(fitting, key=lambda index: abs(profiles[index].opt - size))


class _Shot:
    """One batch size: an execution context, buffers on both sides, and the recorded graph."""

    def __init__(self, context: "trt.IExecutionContext", device: Any, stream: Any, size: int) -> None:
        from cuda.core import EventOptions, LegacyPinnedMemoryResource

        self.size = size
        self._context = context
        self._stream = stream
        pinned = LegacyPinnedMemoryResource()
        self._taken, self._made = pinned.allocate(size * IMAGE_BYTES), pinned.allocate(size * CLASSES * _FLOAT_BYTES)
        self._input = device.allocate(self._taken.size, stream=stream)
        self._output = device.allocate(self._made.size, stream=stream)
        self.pixels: npt.NDArray[np.uint8] = _view(self._taken, np.uint8).reshape(size, *IMAGE_SHAPE)
        self.probabilities: npt.NDArray[np.float32] = _view(self._made, np.float32).reshape(size, CLASSES)
        # A waiting thread that spins takes its core from the front end.
        self._done = device.create_event(EventOptions(blocking_sync=True))
        self._graph: CudaGraph | None = None

    def bind(self) -> None:
        """Tell the context its shape and its buffers.

        Raises:
            EngineFault: The context refuses.
        """
        accepted = (
            self._context.set_input_shape(INPUT.name, (self.size, *IMAGE_SHAPE)),
            self._context.set_tensor_address(INPUT.name, int(self._input.handle)),
            self._context.set_tensor_address(OUTPUT.name, int(self._output.handle)),
        )
        if not all(accepted) or self._context.infer_shapes():
            raise EngineFault(f"the context refuses batches of {self.size}: {LOGGER.reasons()}")

    def record(self) -> None:
        """Record the graph, and keep it only if it gives what a plain run gives.

        A recording can fail without a word and then replay nothing.
        """
        self.pixels[:] = np.random.default_rng(0).integers(0, 256, self.pixels.shape, np.uint8)
        self._enqueue()  # what is set up at the first run must not be recorded
        self._stream.sync()
        expected = self.probabilities.copy()
        try:
            graph = CudaGraph.record(int(self._stream.handle), self._enqueue)
        except CaptureError as error:
            log.warning("batches of %d run without a CUDA graph: %s", self.size, error)
            return
        self.probabilities[:] = np.nan
        graph.launch()
        self._stream.sync()
        if np.array_equal(self.probabilities, expected):
            self._graph = graph
        else:
            graph.close()
            log.warning("batches of %d run without a CUDA graph: its replay gave other answers", self.size)

    @property
    def recorded(self) -> bool:
        """Whether a batch costs one launch."""
        return self._graph is not None

    def run(self, pixels: Pixels) -> Probabilities:
        """Classify up to `size` images.

        Raises:
            EngineLost: CUDA failed, which it does for good.
        """
        count = len(pixels)
        self.pixels[:count] = pixels
        try:
            self._launch()
            self._stream.record(self._done)
            self._done.sync()
        except Exception as error:  # CUDA's libraries raise a dozen unrelated classes
            raise EngineLost(f"the GPU failed on a batch of {self.size}: {error}") from error
        return self.probabilities[:count].copy()

    def device_seconds(self, launches: int = 50) -> float:
        """Seconds on the device for each of several launches in a row."""
        from cuda.core import EventOptions

        events = [self._stream.device.create_event(EventOptions(timing_enabled=True)) for _ in range(2)]
        self._stream.record(events[0])
        for _ in range(launches):
            self._launch()
        self._stream.record(events[1])
        events[1].sync()
        return float(events[1] - events[0]) / 1000 / launches

    def _launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def _enqueue(self) -> None:
        """Copy, compute, copy."""
        self._taken.copy_to(self._input, stream=self._stream)
        if not self._context.execute_async_v3(int(self._stream.handle)):
            raise EngineFault(f"a batch of {self.size} was refused: {LOGGER.reasons()}")
        self._output.copy_to(self._made, stream=self._stream)

    def close(self) -> None:
        """Give everything back."""
        if self._graph is not None:
            self._graph.close()
        for buffer in (self._input, self._output, self._taken, self._made):
            buffer.close()


def _open_shot(engine: "trt.ICudaEngine", device: Any, stream: Any, size: int, profile: int) -> _Shot:
    LOGGER.clear()
    context = engine.create_execution_context(_runtime_config(engine))
    if context is None:
        raise EngineFault(f"no memory for batches of {size}: {LOGGER.reasons()}; build with a smaller --batch")
    if not context.set_optimization_profile_async(profile, int(stream.handle)):
        raise EngineFault(f"profile {profile} cannot be used: {LOGGER.reasons()}")
    shot = _Shot(context, device, stream, size)
    shot.bind()
    shot.record()
    return shot


def _runtime_config(engine: "trt.ICudaEngine") -> "trt.IRuntimeConfig":
    config = engine.create_runtime_config()
    # TensorRT for RTX would compile the kernels for this size in the background, and the graph would keep the slow ones
    # that serve until then. TensorRT itself has nothing to compile, and no such setting.
    if strategies := getattr(trt, "DynamicShapesKernelSpecializationStrategy", None):
        setattr(config, "dynamic_shapes_kernel_specialization_strategy", strategies.EAGER)  # noqa: B010
    return config


def _view(buffer: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The bytes of a buffer in host memory, without a copy."""
    return np.from_dlpack(buffer).view(dtype)
