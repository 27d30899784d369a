"""TensorRT plans: parse a graph, audit its precision, build. The project's one door to TensorRT's builder.

One source for TensorRT 10 and 11 and for TensorRT for RTX. The graph's own types decide the arithmetic (a strongly
typed network); the builder's precision flags, which version 11 no longer has, are never touched. Most calls answer
None, False or -1 when they fail and leave the reason with the logger or the parser: each is asked.
"""

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.manifest import Profile
from export.errors import PlanError
from export.graph import INPUT, Precision
from serve.engines import IMAGE_SHAPE, products
from serve.engines.tensorrt import LOGGER
from train.errors import WriteError
from train.storage import write_bytes

if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = products.module()


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        profiles: Ranges of batch sizes, each tuned for one of them.
        builder_level: 0 to 5, how long to look for fast kernels.
        workspace_bytes: Most device memory that a kernel may take for itself; None leaves it to the builder.
        compatibility: Which GPUs besides this machine's may run the plan: a level of the library's, in lower case.
        version_compatible: Whether later versions of the library may run it.
        timing_cache: File that keeps kernels' times between builds; None keeps nothing.
    """

    profiles: Sequence[Profile]
    builder_level: int = 3
    workspace_bytes: int | None = None
    compatibility: str = "none"
    version_compatible: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How many convolutions and matrix products a network has, by the type that they are computed in."""

    convolutions: dict[str, int]
    products: dict[str, int]

    def to_json(self) -> dict[str, dict[str, int]]:
        """The audit as plain data."""
        return {"convolutions": self.convolutions, "matrix products": self.products}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built plan, which is code for one kind of machine, and what is known about it."""

    content: bytes
    audit: Audit
    seconds: float


log = logging.getLogger(__name__)

Report = Callable[[str, float], None]
"""Called with the name of the builder's step and how much of it is done, 0 to 1. It must not raise."""


def build(graph: bytes, precision: Precision, options: BuildOptions, report: Report = lambda step, done: None) -> Plan:
    """Builds a plan from an ONNX graph.

    Args:
        graph: As `export.graph.convert` makes it.
        precision: What the graph's arithmetic has to be.
        options: How to build.
        report: Told about the progress.

    Raises:
        PlanError: The parser, the audit or the builder refused; the message has their reason.
        KeyboardInterrupt: Ctrl-C was pressed; the builder has stopped.
    """
    monitor = _Monitor(report)
    started = time.perf_counter()
    with _interrupts(monitor):
        content, audit = _build(graph, precision, options, monitor)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if content is None:
        raise PlanError(f"the builder refused the network: {LOGGER.reasons()}")
    return Plan(content=content, audit=audit, seconds=time.perf_counter() - started)


def _build(
    graph: bytes, precision: Precision, options: BuildOptions, monitor: "_Monitor"
) -> tuple[bytes | None, Audit]:
    LOGGER.clear()
    try:
        builder = trt.Builder(LOGGER)
    except TypeError as error:  # what the bindings make of no builder at all
        raise PlanError(f"no builder ({LOGGER.reasons()}); TensorRT needs an NVIDIA GPU and its driver") from error
    # Idle in TensorRT 11, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(network, graph)
    audit = _audit(network, precision)
    config = builder.create_builder_config()
    _configure(config, options)
    for profile in options.profiles:
        _add_profile(builder, config, profile)
    config.progress_monitor = monitor
    with _timing_cache(config, options.timing_cache):
        content = builder.build_serialized_network(network, config)
    return None if content is None else bytes(content), audit


def version() -> str:
    """The library's version."""
    return str(trt.__version__)


def _parse(network: "trt.INetworkDefinition", graph: bytes) -> None:
    parser = trt.OnnxParser(network, LOGGER)
    if parser.parse(graph):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = [
        f"{error.desc()} ({error.code().name}"
        + (f", node {error.node_name()} of type {error.node_operator()})" if error.node_operator() else ")")
        for error in errors
    ]
    raise PlanError(f"the parser refused the graph: {'; '.join(reasons) or LOGGER.reasons()}")


def _audit(network: "trt.INetworkDefinition", precision: Precision) -> Audit:
    """Counts the types of the heavy layers, and refuses a network that is not of the wanted precision.

    Raises:
        PlanError: A convolution or a matrix product has another type.
    """
    expected = {"fp16": trt.DataType.HALF, "fp32": trt.DataType.FLOAT}[precision]
    found: dict[trt.LayerType, Counter[str]] = {
        trt.LayerType.CONVOLUTION: Counter(),
        trt.LayerType.MATRIX_MULTIPLY: Counter(),
    }
    wrong = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in found:
            continue
        made, taken = layer.get_output(0).dtype, layer.get_input(0).dtype
        found[layer.type][made.name] += 1
        if (taken, made) != (expected, expected):
            wrong.append(f"{layer.name} takes {taken.name} and gives {made.name}")
    if wrong:
        raise PlanError(
            f"the plan would not be {precision}: {len(wrong)} layers are not {expected.name}, such as {wrong[0]}; "
            "the types in the ONNX graph decide, export it again"
        )
    if not sum(found[trt.LayerType.CONVOLUTION].values()):
        raise PlanError("the network has no convolution; a graph of python -m export.to_onnx was expected")
    return Audit(
        convolutions=dict(found[trt.LayerType.CONVOLUTION]), products=dict(found[trt.LayerType.MATRIX_MULTIPLY])
    )


def _configure(config: "trt.IBuilderConfig", options: BuildOptions) -> None:
    config.builder_optimization_level = options.builder_level
    # On by default, it would give FP32 layers the eleven bits of FP16.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Of TensorRT for RTX: memory that it fetched at run time could not be part of a CUDA graph.
    if flag := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(flag)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.compatibility != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, options.compatibility.upper())
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _add_profile(builder: "trt.Builder", config: "trt.IBuilderConfig", profile: Profile) -> None:
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT, *((size, *IMAGE_SHAPE) for size in (profile.min, profile.opt, profile.max)))
    if config.add_optimization_profile(shapes) < 0:
        raise PlanError(f"the builder refused the batch sizes {profile}: {LOGGER.reasons()}")


@contextmanager
def _timing_cache(config: "trt.IBuilderConfig", path: Path | None) -> Iterator[None]:
    """Lends the builder what is known of kernels' times, and keeps what it learns."""
    if path is None:
        yield
        return
    try:
        known = path.read_bytes()
    except OSError:
        known = b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another machine or version: begin anew
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    learnt = bytes(cache.serialize())
    if learnt == known:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, learnt)
    except (OSError, WriteError) as error:  # no reason to lose a plan that took minutes
        log.warning("kernels' times were not kept: %s", error)


@contextmanager
def _interrupts(monitor: "_Monitor") -> Iterator[None]:
    """Make Ctrl-C a wish that the builder is told of: the library swallows what is raised while it calls us."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as under nohup
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda number, frame: monitor.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _Monitor(trt.IProgressMonitor):
    """Passes the builder's progress on, and the wish to stop to the builder."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.interrupted = False
        self._report = report
        self._steps: dict[str, int] = {}

    def interrupt(self) -> None:
        """Stop the builder after its next step."""
        self.interrupted = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Called by the builder, on its own threads as well."""
        self._steps[phase_name] = num_steps

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Called by the builder; False stops it."""
        self._report(phase_name, min(1.0, (step + 1) / max(1, self._steps.get(phase_name, 1))))
        return not self.interrupted

    def phase_finish(self, phase_name: str) -> None:
        """Called by the builder."""
        self._steps.pop(phase_name, None)
