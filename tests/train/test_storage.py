import errno
import os

import pytest
import torch

from train.errors import CheckpointError, WriteError
from train.storage import parse_tensors, save_json, save_tensors, write_bytes


def test_tensors_and_plain_values_come_back_as_they_were(tmp_path):
    payload = {"tensor": torch.arange(3), "nested": {"list": [1, 2.5, None, "text", True]}}
    save_tensors(tmp_path / "file.pt", payload)
    loaded = parse_tensors((tmp_path / "file.pt").read_bytes(), tmp_path / "file.pt")
    assert torch.equal(loaded.pop("tensor"), payload.pop("tensor"))
    assert loaded == payload


def test_json_is_readable_text_that_ends_in_a_newline(tmp_path):
    save_json(tmp_path / "file.json", {"a": [1]})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


class TestAWriteThatFails:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "file"
        write_bytes(path, b"before")
        return path

    @staticmethod
    def raise_full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
    def test_on_a_full_disk_keeps_the_old_file_and_leaves_no_other(self, path, monkeypatch, step):
        monkeypatch.setattr(step, self.raise_full)
        with pytest.raises(WriteError, match=r"file \(5 bytes\) could not be written: No space left on device"):
            write_bytes(path, b"after")
        assert [file.read_bytes() for file in path.parent.iterdir()] == [b"before"]

    def test_by_ctrl_c_keeps_the_old_file_and_leaves_no_other(self, path, monkeypatch):
        def interrupt(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes(path, b"after")
        assert [file.read_bytes() for file in path.parent.iterdir()] == [b"before"]

    def test_for_want_of_a_folder_names_the_file(self, tmp_path):
        with pytest.raises(WriteError, match=r"absent/file.*No such file or directory"):
            write_bytes(tmp_path / "absent" / "file", b"")


def test_what_is_not_a_dictionary_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        parse_tensors((tmp_path / "list.pt").read_bytes(), tmp_path / "list.pt")
