"""Bundles on disk: published in one step, read back only when every byte is the one that was published."""

import ctypes
import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bundle.errors import BundleError, ManifestError, PublishError
from bundle.manifest import File, Manifest

MANIFEST_NAME = "manifest.json"

# A manifest is a few kilobytes. The limit keeps a wrong or hostile file from filling the memory.
_MAX_MANIFEST_BYTES = 1 << 20

# Of Linux's renameat2(2).
_WORKING_FOLDER = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A directory whose manifest was read. Its files are checked when they are read."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check every file that it lists.

        Raises:
            BundleError: The directory, the manifest or a file is missing, or a size or digest differs.
        """
        try:
            found = "a directory" if path.is_dir() else "a file" if path.exists() else "nothing"
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; a bundle directory was expected; check the path") from error
        if found != "a directory":
            raise BundleError(
                f"{path}: found {found}, a bundle directory was expected; "
                "make one with `python -m export.to_onnx best.pt`"
            )
        bundle = cls(path=path, manifest=read_manifest(path / MANIFEST_NAME))
        for name in bundle.manifest.files:
            bundle.read(name)
        return bundle

    def read(self, name: str) -> bytes:
        """The content of a listed file: exactly the bytes whose digest was compared, so nothing can change in between.

        Raises:
            BundleError: The file is not listed, missing or unreadable, or its size or digest differs.
        """
        listed = self.manifest.files.get(name)
        if listed is None:
            raise BundleError(f"{self.path}: the manifest lists no {name}; it lists {sorted(self.manifest.files)}")
        try:
            with (self.path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                # Not read before the size is right: a manifest may name any size, a file may have any.
                content = file.read(size) if size == listed.bytes else None
        except OSError as error:
            raise BundleError(
                f"{self.path / name}: {error.strerror}; the manifest lists this file, {listed.bytes} bytes; "
                "restore it, or export the model again"
            ) from error
        if content is None or file_entry(content) != listed:
            digest = f" with SHA-256 {file_entry(content).sha256}" if content is not None else ""
            raise BundleError(
                f"{self.path / name}: received {size} bytes{digest}, "
                f"expected {listed.bytes} bytes with SHA-256 {listed.sha256}; "
                "the file was changed after it was published: restore it, or export the model again"
            )
        return content


def publish(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle beside its final place, then swap it in; an older bundle there is replaced as a whole.

    Args:
        path: Where the bundle shall stand. Nothing, an empty directory, or an older bundle may be there.
        manifest: The description; its `files` are filled in here.
        files: Content of each file by name.

    Raises:
        PublishError: The target is something else, or cannot be written. What was there is still there.
    """
    if MANIFEST_NAME in files:
        raise PublishError(f"a file named {MANIFEST_NAME} was given; the manifest is written by itself, leave it out")
    check_target(path)
    # A link stays, and what it points to is replaced; "." gets a name.
    target = path.resolve()
    manifest = dataclasses.replace(manifest, files={name: file_entry(content) for name, content in files.items()})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        with _staging(target) as staging:
            for name, content in {**files, MANIFEST_NAME: manifest.to_json().encode()}.items():
                _write(staging / name, content)
            _swap(staging, target)
    except OSError as error:
        raise PublishError(
            f"{path}: {error.strerror or error}; nothing was published; free some space or choose another --output"
        ) from error
    return Bundle(path=path, manifest=manifest)


def check_target(path: Path) -> None:
    """Refuse to publish over anything but a bundle, and into a folder that cannot be written.

    Raises:
        PublishError: Something else stands at `path`, or its parent cannot be written.
    """
    try:
        if path.is_dir() and any(path.iterdir()) and not _is_bundle(path):
            raise PublishError(f"{path}: holds files that are no bundle; they are left alone; choose another --output")
        if path.exists() and not path.is_dir():
            raise PublishError(f"{path}: is a file; a directory was expected; choose another --output")
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir() or not _can_write(parent):
            raise PublishError(f"{path}: {parent} cannot be written; choose another --output or mend its permissions")
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror}; choose another --output") from error


def _can_write(folder: Path) -> bool:
    """Whether something can be made in a folder, found out by doing it: permissions alone do not tell."""
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


def _is_bundle(path: Path) -> bool:
    """Whether nothing in the directory would be lost by replacing it, whatever version of a bundle it is."""
    try:
        document = json.loads((path / MANIFEST_NAME).read_bytes())
        listed = {MANIFEST_NAME, *document["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return "format" in document and {entry.name for entry in path.iterdir()} <= listed


def file_entry(content: bytes) -> File:
    """Size and digest of `content`."""
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; what it lists is not looked at.

    Raises:
        ManifestError: The file is missing, unreadable, too large, or no manifest.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror}; a bundle has a manifest; make one with `python -m export.to_onnx best.pt`"
        ) from error
    if len(content) > _MAX_MANIFEST_BYTES:
        raise ManifestError(f"{path}: over {_MAX_MANIFEST_BYTES} bytes; a manifest has a few thousand")
    try:
        return Manifest.from_json(content)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder beside the target, for what is not yet whole; locked, so that others see that somebody works in it."""
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        with _lock(staging):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    """Delete what processes that were killed have left beside the target: folders that nobody holds locked."""
    for path in target.parent.glob(f".{glob.escape(target.name)}-*"):
        with suppress(OSError), _lock(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a folder; the lock ends with the process, however that ends.

    Raises:
        BlockingIOError: Somebody else holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _swap(staging: Path, target: Path) -> None:
    """Put `staging` at `target`, and what was there at `staging`: at every moment there is a whole bundle."""
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        _replace(staging, target)
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, which Linux can; False where the system or the disk cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_WORKING_FOLDER, os.fsencode(one), _WORKING_FOLDER, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace(staging: Path, target: Path) -> None:
    """Where two folders cannot change places: the older bundle moves aside first and comes back if the rest fails."""
    aside = staging.with_name(f"{staging.name}-older")
    try:
        target.rename(aside)
        staging.rename(target)
    except BaseException:  # Ctrl-C included
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
