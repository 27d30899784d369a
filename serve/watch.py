"""Tells when something changes on the disk. The system says so by itself; nothing is read again and again."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import Change, awatch

from bundle import MANIFEST_NAME


async def changes(path: Path) -> AsyncGenerator[None]:
    """Yields once at the beginning, and then whenever a bundle, or a repository of bundles, has changed.

    Whatever happens after a yield leads to another one, so that who looks at the disk then misses nothing.

    Raises:
        OSError: The path, and the folder that it was in, cannot be watched.
    """
    while True:
        # Anew each time: bundles are published by exchanging folders, and then another one stands at the same path.
        stop = asyncio.Event()
        watching = awatch(*_watched(path), watch_filter=Within(path), recursive=False, stop_event=stop)
        changed = asyncio.ensure_future(anext(watching))
        try:
            await asyncio.sleep(0)  # its first step registers with the system
            yield
            await changed
        except FileNotFoundError:
            # It went while it was being registered. When it comes again is seen in the folder that it was in.
            if not _watched(path):
                raise
        finally:
            stop.set()
            changed.cancel()
            await asyncio.wait({changed})
            await watching.aclose()


def _is_bundle(path: Path) -> bool:
    return not path.is_dir() or (path / MANIFEST_NAME).exists()


def _watched(path: Path) -> set[Path]:
    """Of a repository also its models and versions; of a bundle the folder that it stands in, where it is exchanged.

    Not whatever lies below: one folder that may not be read would be the end of all watching.
    """
    resolved = path.resolve()
    if _is_bundle(path):
        folders = {path.absolute().parent, resolved.parent, resolved}
    else:
        folders = {resolved, *resolved.glob("[!.]*"), *resolved.glob("[!.]*/[!.]*")}
    return {folder for folder in folders if os.path.isdir(folder) and os.access(folder, os.R_OK)}


class Within:
    """Lets changes of a path pass and of what is in it; not of folders with a dot, in which bundles are being made."""

    def __init__(self, path: Path) -> None:
        self._roots = (path.absolute(), path.resolve())

    def __call__(self, _change: Change, changed: str) -> bool:
        """Whether a change counts; see `awatch`."""
        for root in self._roots:
            if Path(changed).is_relative_to(root):
                return not any(part.startswith(".") for part in Path(changed).relative_to(root).parts)
        return False
