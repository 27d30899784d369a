"""Files that are replaced while the server runs: certificates, keys, tokens."""

from pathlib import Path


class Renewal:
    """Says when some files have changed. Nothing runs in between: whoever needs them asks.

    Args:
        paths: The files; one that is missing, or comes back, has changed.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Whether they have since the last time this was asked, at first since this was made."""
        before, self._seen = self._seen, self._stamps()
        return self._seen != before

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
