"""What counts as a change of a bundle or of a repository."""

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

import pytest
from watchfiles import Change

from serve.watch import Within, _watched, changes


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("/models", True),
        ("/models/a/1", True),
        ("/models/a/1/model.onnx", True),
        ("/models/a/.1-x8d/model.onnx", False),
        ("/models/.git/index", False),
        ("/models-old/a/1", False),
        ("/other", False),
    ],
)
def test_what_is_within_counts_but_not_the_folders_in_which_bundles_are_being_made(changed: str, counts: bool) -> None:
    assert Within(Path("/models"))(Change.modified, changed) is counts


def test_a_folder_that_lies_below_one_with_a_dot_counts() -> None:
    assert Within(Path("/home/me/.cache/models"))(Change.added, "/home/me/.cache/models/a/1")


def test_a_path_with_a_link_in_it_counts_by_both_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    within = Within(tmp_path / "link")
    assert within(Change.added, str(tmp_path / "link/a"))
    assert within(Change.added, str(tmp_path / "real/a"))


async def test_a_folder_that_may_not_be_read_does_not_end_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a/1", "lost+found/private"):
        (tmp_path / folder).mkdir(parents=True)
    allowed = os.access  # permissions do not stop root, as whom tests may run
    monkeypatch.setattr(os, "access", lambda path, mode: "lost+found" not in str(path) and allowed(path, mode))
    assert _watched(tmp_path) == {tmp_path, tmp_path / "a", tmp_path / "a/1"}
    async with asyncio.timeout(20), aclosing(changes(tmp_path)) as looks:
        await anext(looks)
        (tmp_path / "a/2").mkdir()
        await anext(looks)
        (tmp_path / "a/2/manifest.json").touch()
        await anext(looks)
