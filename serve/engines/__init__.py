"""Engines turn pixels into probabilities. One module per library, all behind the `Engine` protocol."""

from serve.engines.engine import CLASSES, IMAGE_BYTES, IMAGE_SHAPE, Engine, OpenEngine, Pixels, Probabilities

__all__ = ["CLASSES", "IMAGE_BYTES", "IMAGE_SHAPE", "Engine", "OpenEngine", "Pixels", "Probabilities"]
