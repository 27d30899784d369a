"""Files that are whole or absent: atomic writing, and reading that never runs code.

Tensors are stored in PyTorch's zip format and read back with `weights_only=True`, which admits
tensors and plain Python values and nothing else.
"""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from train.errors import CheckpointError, RunError, WriteError

_ZIP_SIGNATURE = b"PK\x03\x04"


def save_tensors(path: Path, payload: dict[str, Any]) -> None:
    """Writes tensors and plain values, atomically.

    Raises:
        WriteError: The file could not be written. What was there before is still there.
    """
    # Serialised in memory first (a few MB), so that a full disk is an ordinary OSError.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_bytes(path, buffer.getvalue())


def save_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON document, atomically.

    Raises:
        WriteError: The file could not be written. What was there before is still there.
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a reader, or a crash, sees the old file or the new one.

    Raises:
        WriteError: The file could not be written. What was there before is still there.
    """
    # Beside the target, because a rename is atomic only within one file system.
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # a full disk and Ctrl-C alike must leave nothing behind
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(
            f"{path} ({len(content)} bytes) could not be written: {error.strerror}. "
            "Make room or choose another folder; what was there before is untouched"
        ) from error


def make_folder(path: Path, advice: str) -> None:
    """Makes a folder that can be written to.

    Args:
        path: The folder; those above it are made as well.
        advice: What to do where that is not possible, for the message.

    Raises:
        RunError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be made ({error.strerror}); {advice}") from error
    if not os.access(path, os.W_OK):
        raise RunError(f"{path} cannot be written to; {advice}")


def read_bytes(path: Path) -> bytes:
    """Reads a whole file.

    Raises:
        CheckpointError: It is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; write one with python -m train, or check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected a checkpoint file") from error


def parse_tensors(content: bytes, path: Path) -> dict[str, Any]:
    """Decodes what `save_tensors` wrote, into main memory.

    Args:
        content: The whole file.
        path: Where it came from, for messages.

    Raises:
        CheckpointError: The content is truncated, foreign, or holds more than plain values.
    """
    _check_archive(content, path)
    try:
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects, which could run code when loaded, and is refused; expected tensors and "
            "plain values only. Save the state_dict of a module, not the module"
        ) from error
    except Exception as error:  # crafted content makes the library raise almost anything
        raise CheckpointError(
            f"{path} is a zip file but not a readable checkpoint ({_first_line(error)}); expected a file "
            "written by python -m train. Train again or fetch the file again"
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} holds a {type(payload).__name__}; expected a checkpoint of python -m train")
    return payload


def _check_archive(content: bytes, path: Path) -> None:
    """Tells foreign, truncated and damaged files apart, which torch.load does not."""
    if not content:
        raise CheckpointError(f"{path} is empty; train again or fetch the file again")
    if not content.startswith(_ZIP_SIGNATURE):
        raise CheckpointError(
            f"{path} is not a checkpoint: it begins with {content[: len(_ZIP_SIGNATURE)]!r}, "
            f"expected {_ZIP_SIGNATURE!r}. Give the best.pt that python -m train wrote"
        )
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise CheckpointError(
            f"{path} is truncated: {len(content)} bytes without the index that ends a checkpoint. "
            "Train again or fetch the file again"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch.load reads weights without looking at their checksums.
            damaged = archive.testzip()
    except Exception as error:  # a damaged index makes the library raise almost anything
        raise CheckpointError(
            f"{path} is damaged: {_first_line(error)}. Train again or fetch the file again"
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong. Train again or fetch it again")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
