"""What counts as a change of a bundle or of a repository."""

from pathlib import Path

import pytest
from watchfiles import Change

from serve.watch import Within


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
