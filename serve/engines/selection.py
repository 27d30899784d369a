"""Which engine serves a bundle on this machine: a TensorRT plan that fits the GPU, or ONNX Runtime on GPU or CPU.

A plan is code for one product, version and kind of GPU, and nothing but the manifest beside it says which. So the two
are compared before a byte of the plan is loaded, and every mismatch is named with both sides.
"""

import functools
import logging
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bundle import Bundle
from bundle.manifest import Gpu, Graph, Plan
from serve.engines import products
from serve.engines.engine import IMAGE_SHAPE, OpenEngine
from serve.engines.gpu import find_gpu
from serve.engines.onnx_runtime import (
    GRAPH,
    HALF_GRAPH,
    INT8_GRAPH,
    has_cuda,
    open_onnx_runtime,
    open_onnx_runtime_cuda,
)
from serve.errors import EngineFault, StartupError

EngineName = Literal["auto", "onnxruntime", "onnxruntime-int8", "onnxruntime-cuda", "tensorrt"]

log = logging.getLogger(__name__)

# Major compute capability of the first GPUs that plans for `ampere_plus` run on.
_AMPERE = 8

# A GPU gains from large batches, and one slot copies while the other computes.
_GPU_BATCH = 256
_GPU_SLOTS = 2

_REBUILD = "build one here with python -m export.to_trt --bundle DIR"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """An engine that can serve.

    Attributes:
        file: The file of the bundle that it loads.
        accuracy: Share of right answers, 0 to 1, that the parity gate measured with that file.
        open: Opens one engine; called on each engine thread.
        slots: How many engines to open unless configured otherwise.
        batch: Most images in one call unless configured otherwise; None leaves it to be measured, and how many of the
            engines are of use.
        shares_cores: Whether the engines compute on the cores that everything else needs, too.
        largest_batch: Most images that one call can take; None for any number.
        most_slots: Most engines that one process can open; None for any number.
    """

    file: str
    accuracy: float
    open: OpenEngine
    slots: int
    batch: int | None
    shares_cores: bool = False
    largest_batch: int | None = None
    most_slots: int | None = None


def select(bundle: Bundle, wanted: EngineName = "auto") -> Selection:
    """Chooses an engine.

    Args:
        bundle: What to serve.
        wanted: `auto` takes the first of a plan that the parity gate has checked on a GPU, the FP16 graph on the GPU,
            and the CPU, that opens and answers; a name takes that one or none.

    Raises:
        StartupError: The wanted engine cannot serve this bundle on this machine; the message says why.
    """
    if wanted == "onnxruntime":
        return _on_cpu(bundle, GRAPH)
    if wanted == "onnxruntime-int8":
        return _on_cpu(bundle, INT8_GRAPH)
    gpu = find_gpu()
    if isinstance(gpu, str):
        if wanted == "auto":
            if bundle.manifest.plans:
                log.warning("the bundle's plans are not served: %s", gpu)
            return _fastest_on_cpu(bundle)
        raise StartupError(
            f"engine {wanted} needs an NVIDIA GPU: {gpu.rstrip('.')}; engine onnxruntime computes on the CPU"
        )
    if wanted == "tensorrt":
        return _with_plan(bundle, gpu, unchecked=True)
    if wanted == "onnxruntime-cuda":
        return _on_gpu(bundle)
    return _fastest(bundle, gpu)


def mismatch(plan: Plan, bundle: Bundle, gpu: Gpu) -> str | None:
    """Why a plan cannot be loaded on this machine, naming both sides; None if it can."""
    product = products.PRODUCTS.get(plan.product)
    if product is None:
        return f"it is of {plan.product!r}; {' or '.join(products.PRODUCTS)} was expected"
    if plan.graph_sha256 not in {bundle.manifest.files[name].sha256 for name in bundle.manifest.graphs}:
        return "it was built from another graph than the bundle's"
    version = product.version()
    if version is None:
        return f"it is of {plan.product} {plan.version}, which is not installed here ({product.install})"
    if version != plan.version:
        return f"it is of {plan.product} {plan.version}, here is {version}"
    if plan.options.get("version_compatible"):
        return "it brings a runtime of its own, which this server does not load"
    if plan.gpu is None or _is_portable(plan, plan.gpu, gpu):
        return None
    theirs, ours = (f"{each.name} (compute capability {each.compute_capability})" for each in (plan.gpu, gpu))
    return f"it is of {theirs}, here is {ours}" if theirs != ours else None


def _is_portable(plan: Plan, built: Gpu, here: Gpu) -> bool:
    """Whether a plan was built for GPUs like this one, too."""
    if plan.product == products.TENSORRT_RTX.name:
        return True
    match plan.options.get("compatibility"):
        case "same_compute_capability":
            return built.compute_capability == here.compute_capability
        case "ampere_plus":
            return int(here.compute_capability.partition(".")[0]) >= _AMPERE
        case _:
            return False


def _fastest(bundle: Bundle, gpu: Gpu) -> Selection:
    attempts = [functools.partial(_with_plan, bundle, gpu, unchecked=False)] if bundle.manifest.plans else []
    for attempt in (*attempts, functools.partial(_on_gpu, bundle)):
        try:
            selection = attempt()
            with selection.open() as engine:  # what a GPU lacks often shows only now
                engine.run(np.zeros((1, *IMAGE_SHAPE), np.uint8))
            return selection
        except (StartupError, EngineFault) as error:
            log.warning("%s; falling back", error)
    return _fastest_on_cpu(bundle)


def _fastest_on_cpu(bundle: Bundle) -> Selection:
    return _on_cpu(bundle, INT8_GRAPH if INT8_GRAPH in bundle.manifest.graphs else GRAPH)


def _with_plan(bundle: Bundle, gpu: Gpu, *, unchecked: bool) -> Selection:
    reasons = []
    for name, plan in _preferred(bundle):
        reason = mismatch(plan, bundle, gpu)
        if reason is None and plan.parity is None and not unchecked:
            reason = "it has not been checked on a GPU; --engine tensorrt serves it nevertheless"
        if reason is None:
            return _of_plan(bundle, name, plan)
        reasons.append(f"{name}: {reason}")
    raise StartupError(f"no plan fits this machine: {'; '.join(reasons) or 'the bundle has none'}; {_REBUILD}")


def _preferred(bundle: Bundle) -> Iterator[tuple[str, Plan]]:
    """Checked plans first, and FP16 before FP32."""
    yield from sorted(bundle.manifest.plans.items(), key=lambda item: (item[1].parity is None, item[1].precision))


def _of_plan(bundle: Bundle, name: str, plan: Plan) -> Selection:
    try:
        products.choose(products.PRODUCTS[plan.product])
        from serve.engines.tensorrt import open_tensorrt  # imports TensorRT
    except (ImportError, OSError, RuntimeError) as error:
        raise StartupError(f"{plan.product} cannot be loaded: {error}") from error

    if plan.parity is None:
        log.warning("%s has not been checked on a GPU", name)
    graph = next(graph for file, graph in bundle.manifest.graphs.items() if plan.graph_sha256 == _sha256(bundle, file))
    largest = max(profile.max for profile in plan.profiles)
    return Selection(
        file=name,
        accuracy=(plan.parity or graph.parity).candidate_accuracy,
        open=functools.partial(open_tensorrt, bundle.read(name), plan),
        slots=_GPU_SLOTS,
        batch=min(largest, _GPU_BATCH),
        largest_batch=largest,
    )


def _on_gpu(bundle: Bundle) -> Selection:
    if not has_cuda():
        raise StartupError(
            "this build of ONNX Runtime has no CUDA provider; `pip uninstall onnxruntime onnxruntime-gpu && "
            "pip install '.[gpu]'` brings the other one"
        )
    return Selection(
        file=HALF_GRAPH,
        accuracy=_graph(bundle, HALF_GRAPH).parity.candidate_accuracy,
        open=functools.partial(open_onnx_runtime_cuda, bundle.read(HALF_GRAPH), largest_batch=_GPU_BATCH),
        slots=1,
        most_slots=1,
        batch=_GPU_BATCH,
        largest_batch=_GPU_BATCH,
    )


def _on_cpu(bundle: Bundle, name: str) -> Selection:
    graph = _graph(bundle, name)
    return Selection(
        file=name,
        accuracy=graph.parity.candidate_accuracy,
        open=functools.partial(open_onnx_runtime, bundle.read(name), precision=graph.precision),
        slots=_usable_cores(),
        batch=None,
        shares_cores=True,
    )


def _graph(bundle: Bundle, name: str) -> Graph:
    graphs = bundle.manifest.graphs
    if name not in graphs:
        how = " with --int8" if name == INT8_GRAPH else ""
        raise StartupError(
            f"{bundle.path}: the bundle has no {name}; it has {', '.join(sorted(graphs)) or 'none'}; "
            f"export it again{how}"
        )
    return graphs[name]


def _sha256(bundle: Bundle, name: str) -> str:
    return bundle.manifest.files[name].sha256


def _usable_cores() -> int:
    # Fewer than the machine has where the process is pinned to some, or has a quota of time (`docker --cpus`).
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return math.ceil(min(cores, _quota()))


def _quota() -> float:
    """Cores' worth of time that this container may use; see cpu.max in the kernel's documentation of cgroup v2."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # none, or "max"
        return math.inf
