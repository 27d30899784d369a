import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch

from train import checkpoint as checkpoints
from train import loop
from train.augment import Augmentation
from train.errors import DivergenceError, RecipeError, RunError, WriteError
from train.loop import train
from train.run import RunFolder

EVERYTHING = Augmentation(rotation_degrees=5, shift_pixels=1, scale=0.05, shear_degrees=3, crop_probability=0.1)


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(augmentation=EVERYTHING, schedule="one_cycle")


@pytest.fixture
def run(dataset):
    """Trains on the small data set, on the CPU."""

    def run(recipe, folder, seed=0, **options):
        return train(recipe, dataset, folder, seed=seed, device=torch.device("cpu"), **options)

    return run


def numbers(folder):
    """Everything a run wrote that must not depend on the clock."""
    history = json.loads(folder.history.read_text())
    for epoch in history["epochs"]:
        del epoch["seconds"]
    best = checkpoints.load(folder.best)
    return history, best.metrics, {name: weight.tolist() for name, weight in best.weights.items()}


def new_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(resume=False, overwrite=False)
    return folder


def interrupt_in_step(monkeypatch, number):
    """Presses Ctrl-C, so to speak, in the given optimiser step."""
    steps, step = iter(range(1, 1000)), loop._step

    def interrupted(*arguments):
        if next(steps) == number:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", interrupted)


def test_a_run_learns_and_writes_checkpoint_state_and_history(run, folder, make_recipe):
    best = run(make_recipe(epochs=6), folder)
    assert best.metrics["test_accuracy"] > 0.9
    assert {file.name for file in folder.path.iterdir()} == {"best.pt", "last.pt", "history.json"}
    assert checkpoints.load(folder.best).metrics == best.metrics


def test_the_checkpoint_is_the_epoch_with_the_smallest_validation_loss(run, folder, recipe):
    best = run(recipe, folder)
    epochs = json.loads(folder.history.read_text())["epochs"]
    assert best.epoch == min(epochs, key=lambda epoch: epoch["validation_loss"])["epoch"]
    assert best.metrics["validation_loss"] == epochs[best.epoch - 1]["validation_loss"]


def test_the_history_names_recipe_seed_data_and_results(run, folder, recipe):
    best = run(recipe, folder, seed=5)
    history = json.loads(folder.history.read_text())
    assert history["recipe"] == dataclasses.asdict(recipe) == best.recipe
    assert (history["seed"], history["data"]["name"]) == (5, "patterns")
    assert history["best_epoch"] == best.epoch
    assert history["test"]["test_accuracy"] == best.metrics["test_accuracy"]


def test_each_epoch_is_reported_once_with_what_it_gave(run, folder, recipe):
    reported = []
    run(recipe, folder, report=reported.append)
    assert [dataclasses.asdict(metrics) for metrics in reported] == json.loads(folder.history.read_text())["epochs"]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(run, tmp_path, recipe):
    folders = [new_folder(tmp_path / name) for name in ("first", "again", "other")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        run(recipe, folder, seed=seed)
    first, again, other = map(numbers, folders)
    assert first == again
    assert first[1] != other[1]


def test_the_test_images_are_looked_at_once_and_last(run, folder, recipe, dataset, monkeypatch):
    measured, measure = [], loop.measure
    monkeypatch.setattr(loop, "measure", lambda recogniser, split: measured.append(split) or measure(recogniser, split))
    run(recipe, folder)
    assert [split is dataset.test for split in measured] == [False, False, False, True]
    run(recipe, folder, resume=True)
    assert len(measured) == 4


def test_a_run_out_of_patience_stops_and_is_tested(run, folder, make_recipe, monkeypatch):
    losses = iter((0.3, 0.2, 0.4, 0.5, 9.9))
    monkeypatch.setattr(loop, "measure", lambda recogniser, split: (next(losses), 0.5))
    best = run(make_recipe(epochs=50, patience=2), folder)
    assert best.epoch == 2
    assert best.metrics["test_loss"] == 9.9


class TestAnInterruptedRun:
    def test_leaves_the_best_checkpoint_intact(self, run, folder, recipe, monkeypatch):
        interrupt_in_step(monkeypatch, 9)  # there are 6 steps in an epoch
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder)
        assert checkpoints.load(folder.best).epoch == 1
        assert {file.name for file in folder.path.iterdir()} == {"best.pt", "last.pt", "history.json"}

    @pytest.mark.parametrize("optimiser", ["sgd", "adam"])
    def test_gives_the_numbers_of_an_uninterrupted_one_when_resumed(
        self, run, tmp_path, make_recipe, monkeypatch, optimiser
    ):
        recipe = make_recipe(augmentation=EVERYTHING, schedule="one_cycle", optimiser=optimiser)
        whole, parts = (new_folder(tmp_path / name) for name in ("whole", "parts"))
        run(recipe, whole)
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, 9)
            with pytest.raises(KeyboardInterrupt):
                run(recipe, parts)
        torch.rand(5)  # what the process drew in between must not matter
        run(recipe, parts, resume=True)
        assert numbers(parts) == numbers(whole)

    def test_before_the_test_is_tested_when_resumed(self, run, folder, recipe, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_test_once", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(recipe, folder)
        assert "test_accuracy" not in checkpoints.load(folder.best).metrics
        assert "test_accuracy" in run(recipe, folder, resume=True).metrics

    def test_is_not_resumed_with_another_recipe_or_seed(self, run, folder, recipe):
        run(recipe, folder)
        with pytest.raises(RunError, match="epochs was 3, now 4"):
            run(dataclasses.replace(recipe, epochs=4), folder, resume=True)
        with pytest.raises(RunError, match="seed was 0, now 1"):
            run(recipe, folder, seed=1, resume=True)


class TestARunThatDiverges:
    def test_stops_and_says_so_without_a_checkpoint_of_it(self, run, folder, make_recipe):
        with pytest.raises(DivergenceError, match=r"diverged in epoch 1: .*no checkpoint was written.*below 1e\+30"):
            run(make_recipe(optimiser="sgd", learning_rate=1e30), folder)
        assert not folder.best.exists()

    def test_keeps_the_best_checkpoint_so_far(self, run, folder, recipe, monkeypatch):
        losses = iter((0.3, float("nan")))
        monkeypatch.setattr(loop, "measure", lambda recogniser, split: (next(losses), 0.5))
        with pytest.raises(DivergenceError, match=r"diverged in epoch 2: .*the checkpoint of epoch 1 is kept"):
            run(recipe, folder)
        assert checkpoints.load(folder.best).epoch == 1


def test_on_a_full_disk_the_best_checkpoint_so_far_stays(run, folder, recipe, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError, match="No space left on device"):
        run(recipe, folder, report=lambda metrics: monkeypatch.setattr("os.fsync", full))
    assert checkpoints.load(folder.best).epoch == 1


def test_a_batch_larger_than_the_training_images_is_refused(run, folder, make_recipe):
    with pytest.raises(RecipeError, match="batch_size is 500; it must be at most 198"):
        run(make_recipe(batch_size=500), folder)


def test_a_new_run_deletes_the_files_of_the_one_it_replaces(run, folder, recipe, monkeypatch):
    run(recipe, folder)
    interrupt_in_step(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder)
    assert list(folder.path.iterdir()) == []
