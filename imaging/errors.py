"""What can be wrong with a picture."""


class PictureError(ValueError):
    """The bytes are no picture that can be read, or it is too large; the message says what was expected."""
