"""The parts of the TensorRT engine that need no GPU: which sizes it records, and how a batch finds its size."""

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")

from bundle.manifest import Plan, Profile
from serve.engines.gpu import find_gpu
from serve.engines.tensorrt import LOGGER, TensorRtEngine, _sizes, open_tensorrt
from serve.errors import EngineFault, StartupError

PLAN = Plan(
    product="tensorrt-rtx",
    version="1.7.1.116",
    gpu=None,
    precision="fp16",
    graph_sha256="0" * 64,
    profiles=[Profile(min=1, opt=4, max=8)],
    options={},
    audit={},
    build_seconds=1.0,
    parity=None,
)


class Shot:
    """Stands in for one recorded batch size, which needs a GPU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[int] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        self.asked.append(len(pixels))
        return np.zeros((len(pixels), 10), np.float32)


@pytest.mark.parametrize(
    ("profiles", "sizes"),
    [
        ([(1, 32, 256)], [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (32, 0), (64, 0), (128, 0), (256, 0)]),
        ([(1, 1, 1), (2, 32, 100)], [(1, 0), (2, 1), (4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (100, 1)]),
        ([(1, 4, 64), (1, 48, 64)], [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (32, 1), (48, 1), (64, 1)]),
        ([(8, 8, 8)], [(8, 0)]),
        ([(3, 5, 7)], [(3, 0), (4, 0), (5, 0), (7, 0)]),
        ([(1, 1, 1), (100, 100, 100)], [(1, 0), (100, 1)]),
    ],
)
def test_every_doubling_and_every_tuned_size_is_recorded_with_the_profile_tuned_nearest(profiles, sizes):
    assert list(_sizes([Profile(min=low, opt=best, max=high) for low, best, high in profiles])) == sizes


def test_a_batch_goes_to_the_smallest_size_that_holds_it():
    shots = [Shot(1), Shot(4), Shot(8)]
    engine = TensorRtEngine(shots, PLAN)
    for count in (1, 2, 4, 5, 8):
        assert engine.run(np.zeros((count, 1, 28, 28), np.uint8)).shape == (count, 10)
    assert [shot.asked for shot in shots] == [[1], [2, 4], [5, 8]]
    assert engine.sizes == [1, 4, 8]
    assert (engine.name, engine.device, engine.precision) == ("tensorrt-rtx", "cuda:0", "fp16")


def test_a_batch_that_no_size_holds_is_a_fault_with_both_numbers():
    with pytest.raises(EngineFault, match="received 9 images, the plan takes at most 8"):
        TensorRtEngine([Shot(8)], PLAN).run(np.zeros((9, 1, 28, 28), np.uint8))


@pytest.mark.skipif(not isinstance(find_gpu(), str), reason="there is a GPU")
def test_without_a_gpu_a_plan_cannot_be_opened_and_the_reason_is_given():
    with pytest.raises(StartupError, match=r"the GPU cannot be used: .*driver"), open_tensorrt(b"plan", PLAN):
        pass


def test_the_logger_keeps_each_reason_once_and_drops_what_only_says_that_there_is_no_gpu():
    from serve.engines.tensorrt import trt

    LOGGER.clear()
    severity = trt.ILogger.Severity
    for message in ("bad node", "cudaError 35: no driver", "bad node", "worse"):
        LOGGER.log(severity.ERROR, message)
    LOGGER.log(severity.INFO, "all is well")
    assert LOGGER.reasons() == "bad node; worse"
    LOGGER.clear()
    assert LOGGER.reasons() == "it gave no reason"
    LOGGER.log(severity.ERROR, "cudaError 35: no driver")
    assert LOGGER.reasons() == "cudaError 35: no driver", "better than nothing"
