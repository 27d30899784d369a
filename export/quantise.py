"""INT8: weights and activations in eight bits, with the scales written into the graph as Q/DQ pairs.

ONNX Runtime's static quantiser chooses the scales from what training images make the FP32 graph compute. For CPUs:
there INT8 is the faster arithmetic, as FP16 is on a GPU. The project's one door to the quantiser.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization

from export.graph import HEAVY, INPUT, strip
from serve.engines import Pixels

# Enough for the extremes of each layer to settle: twice as many change no scale by a hundredth.
CALIBRATION_IMAGES = 1000

_BATCH = 100

# What lies between the heavy layers passes eight bits on as they are.
_PASSED_THROUGH = ("Relu", "MaxPool", "Reshape")


def quantise(model: onnx.ModelProto, images: Pixels) -> onnx.ModelProto:
    """Turns an FP32 graph into an INT8 graph; the same weights and images give the same bytes.

    Args:
        model: As `export.graph.convert` makes it from a folded recogniser.
        images: Training images, uint8 [N, 1, 28, 28]; the test images must not choose the scales.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)  # the quantiser writes into what it is given
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            own,
            path,
            _Images(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*HEAVY, *_PASSED_THROUGH],
            per_channel=True,
            # After a ReLU nothing is negative: unsigned, all eight bits are of use.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Seven bits of the weights' eight: processors without VNNI add two products in sixteen bits, which would
            # overflow, and a bundle is served on other machines than the one that checked it.
            reduce_range=True,
            extra_options={"WeightSymmetric": True, "QuantizeBias": False},
        )
        quantised = onnx.load(path)
    strip(quantised)
    return quantised


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands the quantiser its images, batch by batch."""

    def __init__(self, images: Pixels) -> None:
        count = min(len(images), CALIBRATION_IMAGES)
        self._batches: Iterator[Any] = iter(np.split(images[:count], range(_BATCH, count, _BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        """Called by the quantiser until there is nothing left."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a preparation of the graph, folding, which is done already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
