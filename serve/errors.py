"""What can go wrong while serving, by whose fault it is.

ServeError
├── StartupError         the server does not start: configuration, bundle, engine, port
│   └── CheckFailed          the model does not answer as its reference, or too slowly
├── LoadFailed           a model cannot be loaded while others are served; what was served still is
├── InvalidRequest       the caller sent something that can never be answered
│   └── InvalidPicture       a picture among it that cannot be read
├── UnknownModel         the caller named a model or version that is not served
├── Unsupported          the caller asked for something that this server does not do, or was not told to do
├── Busy                 the same call may succeed a moment later
│   ├── QueueFull            too many images wait
│   ├── PictureQueueFull     too many pictures wait to be read
│   └── DeadlineUnreachable  the answer would come after the caller's deadline
├── DeadlineExceeded     the caller's time ran out
├── Unavailable          the server is starting or broken; another one can be asked at once
│   └── Draining             or is about to end, having been told to
├── PictureFault         the process that was to read this request's pictures failed
└── EngineFault          the engine failed on this request's batch
    └── EngineLost       and will fail on every other

The text of every class but the faults reaches the caller; `rpc.status` maps the classes to gRPC.
"""


class ServeError(Exception):
    """Base of everything this package raises on purpose."""


class StartupError(ServeError):
    """The server cannot start; the message says what to change."""


class CheckFailed(StartupError):
    """The engine does not answer the bundle's probe set as the reference did, or takes too long for it."""


class LoadFailed(ServeError):
    """What lies on the disk cannot be served; the message says why. What was served before still is."""


class InvalidRequest(ServeError):
    """The request breaks the contract of the wire."""


class InvalidPicture(InvalidRequest):
    """The request has a picture that cannot be read, or is too large, or takes too long."""


class UnknownModel(ServeError):
    """The request names a model or version that is not served here."""


class Unsupported(ServeError):
    """The request is for something that this server does not do, or does only where it is configured."""


class Busy(ServeError):
    """Too much is waiting for this request. `retry_after_s` is when that is expected to be done, in seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Busy):
    """There is no room for the images."""


class PictureQueueFull(Busy):
    """There is no room for the pictures."""


class DeadlineUnreachable(Busy):
    """What waits already, and the request itself, take longer than the caller is willing to wait."""


class DeadlineExceeded(ServeError):
    """The caller's deadline passed before an engine took up the request."""


class Unavailable(ServeError):
    """The server takes no requests: it is starting or draining, or its engine has died."""


class Draining(Unavailable):
    """The server, or the model, is being stopped."""


class PictureFault(ServeError):
    """A process that reads pictures failed. The message is for the log, not for the caller."""


class EngineFault(ServeError):
    """The engine failed. The message is for the log, not for the caller."""


class EngineLost(EngineFault):
    """The engine failed and cannot recover: its device is gone, or in a state that only a new process leaves."""
