import dataclasses
import hashlib
import json

import pytest
import torch

from train.errors import CheckpointError, RunError
from train.run import RunFolder, identify


def identity(dataset, recipe, seed=0, precision=torch.float32, workers=1):
    return identify(recipe, dataset, seed=seed, device=torch.device("cpu"), precision=precision, workers=workers)


class TestIdentity:
    def test_is_plain_values(self, dataset, make_recipe):
        found = identity(dataset, make_recipe(), seed=3, precision=torch.bfloat16, workers=2)
        assert (
            json.loads(json.dumps(found))
            == found
            == {
                "recipe": dataclasses.asdict(make_recipe()),
                "teacher": None,
                "seed": 3,
                "data": {"name": "patterns", "sha256": "0" * 64},
                "device": "cpu",
                "precision": "bfloat16",
                "workers": 2,
            }
        )

    def test_holds_the_digest_of_the_teacher(self, dataset, make_recipe, tmp_path):
        teacher = tmp_path / "best.pt"
        teacher.write_bytes(b"wise")
        found = identity(dataset, make_recipe(teacher=str(teacher)))
        assert found["teacher"] == hashlib.sha256(b"wise").hexdigest()
        teacher.write_bytes(b"wiser")
        assert identity(dataset, make_recipe(teacher=str(teacher))) != found

    def test_of_a_teacher_that_is_missing_is_an_error_with_its_path(self, dataset, make_recipe):
        with pytest.raises(CheckpointError, match=r"nowhere/best\.pt does not exist"):
            identity(dataset, make_recipe(teacher="nowhere/best.pt"))


class TestPreparing:
    def test_makes_the_folder_and_its_parents(self, tmp_path):
        RunFolder(tmp_path / "a" / "b").prepare(resume=False, overwrite=False)
        assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("file", ["best.pt", "last.pt", "history.json"])
    def test_a_run_is_never_silently_overwritten(self, folder, file):
        (folder.path / file).write_text("")
        with pytest.raises(RunError, match=r"--resume .* --overwrite .* --name"):
            folder.prepare(resume=False, overwrite=False)

    def test_overwriting_deletes_nothing_yet(self, folder):
        folder.best.write_text("")
        folder.prepare(resume=False, overwrite=True)
        assert folder.best.exists()

    def test_nothing_to_resume_is_an_error(self, folder):
        with pytest.raises(RunError, match="holds no finished epoch to resume from"):
            folder.prepare(resume=True, overwrite=False)

    def test_a_folder_that_cannot_be_made_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"cannot be made .*; choose a folder with --runs"):
            RunFolder(tmp_path / "file" / "run").prepare(resume=False, overwrite=False)

    def test_a_folder_that_cannot_be_written_to_is_an_error(self, folder, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, mode: False)  # permissions do not stop root
        with pytest.raises(RunError, match="cannot be written to; choose a folder with --runs"):
            folder.prepare(resume=False, overwrite=False)


class TestState:
    def test_comes_back_to_the_run_that_saved_it(self, folder, dataset, make_recipe):
        folder.save_state(identity(dataset, make_recipe()), {"a": 1})
        assert folder.load_state(identity(dataset, make_recipe())) == {"a": 1}

    def test_is_refused_to_another_run_with_both_values(self, folder, dataset, make_recipe):
        folder.save_state(identity(dataset, make_recipe(epochs=2)), {})
        with pytest.raises(RunError, match=r"holds another run: dropout was 0\.1, now 0.2; epochs was 2, now 4; seed"):
            folder.load_state(identity(dataset, make_recipe(epochs=4, arguments={"dropout": 0.2}), seed=1))

    def test_is_refused_where_it_was_computed_in_another_way(self, folder, dataset, make_recipe):
        folder.save_state(identity(dataset, make_recipe()), {})
        with pytest.raises(RunError, match="precision was float32, now bfloat16; workers was 1, now 2"):
            folder.load_state(identity(dataset, make_recipe(), precision=torch.bfloat16, workers=2))

    def test_is_refused_to_a_run_with_another_teacher_of_the_same_name(self, folder, dataset, make_recipe, tmp_path):
        teacher = tmp_path / "best.pt"
        teacher.write_bytes(b"wise")
        folder.save_state(identity(dataset, make_recipe(teacher=str(teacher))), {})
        teacher.write_bytes(b"wiser")
        with pytest.raises(RunError, match=r"holds another run: teacher was [0-9a-f]{64}, now [0-9a-f]{64}"):
            folder.load_state(identity(dataset, make_recipe(teacher=str(teacher))))

    def test_of_some_other_kind_is_refused(self, folder):
        torch.save({"weights": {}}, folder.last)
        with pytest.raises(CheckpointError, match="is not the state of a run"):
            folder.load_state({})
