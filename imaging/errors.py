"""What can be wrong with a picture, and with those who read it."""


class PictureError(ValueError):
    """The bytes are no picture that can be read, or it is too large; the message says what was expected."""


class PoolFull(Exception):
    """Too many pictures wait already. `retry_after_s` is when that is expected to be done, in seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WorkerLost(Exception):
    """The process that was to read a picture did not do so; another one takes its place."""
