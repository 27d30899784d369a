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
                "format_version": 1,
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


class TestReserving:
    def test_makes_the_folder_and_its_parents(self, tmp_path):
        with RunFolder(tmp_path / "a" / "b").reserved(resume=False, overwrite=False):
            assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("file", ["best.pt", "last.pt", "history.json"])
    def test_a_run_is_never_silently_overwritten(self, folder, file):
        (folder.path / file).write_text("")
        with pytest.raises(RunError, match=r"--resume .* --overwrite .* --name"):
            enter(folder)

    def test_overwriting_deletes_nothing_yet(self, folder):
        folder.best.write_text("")
        enter(folder, overwrite=True)
        assert folder.best.exists()

    def test_nothing_to_resume_is_an_error(self, folder):
        with pytest.raises(RunError, match="holds no finished epoch to resume from"):
            enter(folder, resume=True)

    def test_a_folder_that_is_not_there_cannot_be_resumed_and_is_not_made(self, tmp_path):
        with pytest.raises(RunError, match="there is no run in"):
            enter(RunFolder(tmp_path / "run"), resume=True)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_two_runs_at_a_time_are_an_error_for_the_second(self, folder, overwrite):
        under_way = pytest.raises(RunError, match=r"another run is under way in .*; wait for it, or --name")
        with folder.reserved(resume=False, overwrite=False), under_way:
            enter(RunFolder(folder.path), overwrite=overwrite)
        enter(folder)

    def test_a_run_that_fails_frees_the_folder(self, folder):
        with pytest.raises(ZeroDivisionError), folder.reserved(resume=False, overwrite=False):
            raise ZeroDivisionError
        enter(folder)

    def test_a_folder_that_cannot_be_made_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"cannot be made .*; choose a folder with --runs"):
            enter(RunFolder(tmp_path / "file" / "run"))

    def test_a_folder_that_cannot_be_written_to_is_an_error(self, folder, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, mode: False)  # permissions do not stop root
        with pytest.raises(RunError, match="cannot be written to; choose a folder with --runs"):
            enter(folder)


def enter(folder, resume=False, overwrite=False):
    with folder.reserved(resume=resume, overwrite=overwrite):
        pass


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
