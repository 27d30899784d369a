"""What lies on the disk: one bundle, or a folder `NAME/VERSION/` of bundles, and which of them shall be served.

Looks at names, sizes and dates only; `local_model` reads what is chosen.
"""

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bundle import MANIFEST_NAME, BundleError, Manifest
from bundle.manifest import check_identity
from bundle.store import read_manifest
from serve.errors import StartupError

log = logging.getLogger(__name__)

VERSIONS = re.compile(r"latest|all|[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*")

_WHAT_TO_DO = (
    "name one with `python -m serve BUNDLE`, such as pretrained/champion in this project's folder, "
    "or make one with `python -m export.to_onnx best.pt`"
)

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of change of each file of a folder: another one as soon as anything in it changes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder that holds a bundle, or claims to, at one moment.

    Attributes:
        name: The model that it has to hold; empty where nothing says so.
        version: Likewise.
        path: The folder.
        stamp: What was in it.
    """

    name: str
    version: str
    path: Path
    stamp: Stamp


def scan(path: Path) -> dict[str, list[Source]]:
    """Everything that could be served.

    Args:
        path: A bundle, or a repository.

    Returns:
        The versions of each model, by the name of its folder; of a bundle by itself one version, under an empty name.

    Raises:
        StartupError: There is neither a bundle nor a repository.
    """
    try:
        if (path / MANIFEST_NAME).exists():
            return {"": [_bundle(path)]}
        folders = _folders(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        seen = "a file" if path.is_file() else "nothing"
        raise StartupError(
            f"{path.absolute()}: found {seen}, a bundle directory was expected, or a folder of them; {_WHAT_TO_DO}"
        ) from error
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}; a bundle directory was expected; check the path") from error
    models = {}
    for folder in folders:
        try:
            if sources := list(_versions(folder)):
                models[folder.name] = sources
        except OSError as error:
            log.warning("%s cannot be read: %s; it is skipped", folder, error.strerror)
    if not models:
        raise StartupError(
            f"{path.absolute()}: found neither {MANIFEST_NAME} nor bundles in folders NAME/VERSION; {_WHAT_TO_DO}"
        )
    return models


def choose(policy: str, sources: Iterable[Source]) -> tuple[list[Source], int]:
    """Which versions of a model to serve.

    Args:
        policy: `latest`, `all`, or versions like `1,3`.
        sources: What there is of one model.

    Returns:
        The versions that may be served, newest first, and how many of them shall be: where one cannot, the next does.
    """
    newest_first = sorted(sources, key=lambda source: int(source.version or 0), reverse=True)
    if policy == "latest":
        return newest_first, 1
    if policy != "all":
        newest_first = [source for source in newest_first if source.version in policy.split(",")]
    return newest_first, len(newest_first)


def _bundle(path: Path) -> Source:
    """A bundle by itself is what its manifest says; where that cannot be read, loading it will say why."""
    try:
        manifest: Manifest = read_manifest(path / MANIFEST_NAME)
    except BundleError:
        return Source(name="", version="", path=path, stamp=_stamp(path))
    return Source(name=manifest.name, version=manifest.version, path=path, stamp=_stamp(path))


def _versions(model: Path) -> Iterable[Source]:
    for folder in _folders(model):
        try:
            check_identity(model.name, folder.name)
        except BundleError:
            continue
        yield Source(name=model.name, version=folder.name, path=folder, stamp=_stamp(folder))


def _folders(path: Path) -> list[Path]:
    # What begins with a dot is being written: bundles are published from such a folder.
    return sorted(entry for entry in path.iterdir() if os.path.isdir(entry) and not entry.name.startswith("."))


def _stamp(folder: Path) -> Stamp:
    """Of what cannot be looked at, only that it is there: who needs it finds out why."""
    files = []
    with suppress(OSError):
        for entry in sorted(folder.iterdir()):
            try:
                found = entry.stat()
                files.append((entry.name, found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                files.append((entry.name, 0, 0, 0))
    return tuple(files)
