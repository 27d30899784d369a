"""Why nothing was published.

ExportError
├── GraphError           the ONNX graph is not what serving expects
├── ParityError          the engine does not agree with the reference
├── PlanError            TensorRT's parser or builder refused
├── OptionError          an option's value is out of range
└── MissingLibraryError  a library for this target is not installed
"""


class ExportError(Exception):
    """The export failed; the message says what to do."""


class GraphError(ExportError):
    """The ONNX graph breaks the contract."""


class ParityError(ExportError):
    """The engine's answers differ from the reference's by more than the tolerances allow."""


class PlanError(ExportError):
    """TensorRT's parser or builder refused."""


class OptionError(ExportError):
    """An option's value is out of range."""


class MissingLibraryError(ExportError):
    """A library that this target needs is not installed."""
