import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from train import checkpoint as checkpoints
from train import loop
from train.data import Split, hold_out
from train.distributed import Workers
from train.errors import CheckpointError, DivergenceError, RecipeError, RunError, WriteError
from train.inference import examine, measure, predict
from train.loop import train
from train.recipes import Recipe
from train.run import RunFolder
from train.state import TrainingState
from train.transforms.augment import Augmentation

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


@pytest.fixture(scope="session")
def teacher(dataset, tmp_path_factory):
    """`best.pt` of a teacher that takes each digit for the one after it, and is mostly of that opinion."""
    shifted = Split(dataset.train.pixels, (dataset.train.labels + 1) % 10)
    folder = new_folder(tmp_path_factory.mktemp("teacher"))
    fields = {"arguments": {"dropout": 0.1}, "epochs": 6, "batch_size": 32, "optimiser": "adam", "learning_rate": 0.01}
    recipe = Recipe(architecture="compact", **fields)
    train(recipe, dataclasses.replace(dataset, train=shifted), folder, seed=9, device=torch.device("cpu"))
    return folder.best


class Unconnected(Workers):
    """Workers without the others: good for what happens before the first step."""

    def connect(self, network):
        return network


def numbers(folder):
    """Everything a run wrote that must not depend on the clock."""
    history = json.loads(folder.history.read_text())
    for epoch in history["epochs"]:
        del epoch["seconds"]
    best = checkpoints.load(folder.best)
    return history, best.metrics, {name: weight.tolist() for name, weight in best.weights.items()}


def new_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.path.mkdir(parents=True, exist_ok=True)
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
    looked, measure, examine = [], loop.measure, loop.examine
    monkeypatch.setattr(loop, "measure", lambda recogniser, split: looked.append(split) or measure(recogniser, split))
    monkeypatch.setattr(loop, "examine", lambda recogniser, split: looked.append(split) or examine(recogniser, split))
    run(recipe, folder)
    assert [split is dataset.test for split in looked] == [False, False, False, True]
    run(recipe, folder, resume=True)
    assert len(looked) == 4


def test_a_run_out_of_patience_stops_and_is_tested(run, folder, make_recipe, monkeypatch):
    losses = iter((0.3, 0.2, 0.4, 0.5))
    monkeypatch.setattr(loop, "measure", lambda recogniser, split: (next(losses), 0.5))
    best = run(make_recipe(epochs=50, patience=2), folder)
    assert best.epoch == 2
    assert best.metrics.keys() >= {"test_loss", "test_accuracy", "corruption_accuracy"}


class TestAnInterruptedRun:
    def test_leaves_the_best_checkpoint_intact(self, run, folder, recipe, monkeypatch):
        interrupt_in_step(monkeypatch, 9)  # there are 6 steps in an epoch
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder)
        assert checkpoints.load(folder.best).epoch == 1
        assert {file.name for file in folder.path.iterdir()} == {"best.pt", "last.pt", "history.json"}

    @pytest.mark.parametrize(
        ("changes", "precision"),
        [
            ({"optimiser": "sgd"}, torch.float32),
            ({"optimiser": "adam"}, torch.float32),
            (
                {
                    "optimiser": "adamw",
                    "weight_decay": 0.05,
                    "label_smoothing": 0.05,
                    "average_decay": 0.9,
                    "teacher_weight": 0.3,
                    "calibrate": True,
                },
                torch.bfloat16,
            ),
        ],
        ids=["sgd", "adam", "everything"],
    )
    def test_gives_the_numbers_of_an_uninterrupted_one_when_resumed(
        self, run, tmp_path, make_recipe, monkeypatch, teacher, changes, precision
    ):
        if "teacher_weight" in changes:
            changes = changes | {"teacher": str(teacher)}
        recipe = make_recipe(augmentation=EVERYTHING, schedule="one_cycle", **changes)
        whole, parts = (new_folder(tmp_path / name) for name in ("whole", "parts"))
        run(recipe, whole, precision=precision)
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, 9)
            with pytest.raises(KeyboardInterrupt):
                run(recipe, parts, precision=precision)
        torch.rand(5)  # what the process drew in between must not matter
        run(recipe, parts, precision=precision, resume=True)
        assert numbers(parts) == numbers(whole)

    def test_before_the_test_is_tested_when_resumed(self, run, folder, recipe, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "examine", interrupt)
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

    def test_is_not_resumed_in_another_precision_or_by_more_workers(self, run, folder, recipe):
        run(recipe, folder)
        with pytest.raises(RunError, match="precision was float32, now bfloat16"):
            run(recipe, folder, precision=torch.bfloat16, resume=True)
        with pytest.raises(RunError, match="workers was 1, now 2"):
            run(recipe, folder, workers=Unconnected(1, 2), resume=True)

    def test_is_not_resumed_with_another_teacher_at_the_same_place(self, run, folder, make_recipe, teacher, tmp_path):
        own = tmp_path / "teacher.pt"
        shutil.copy(teacher, own)
        recipe = make_recipe(epochs=1, teacher=str(own))
        run(recipe, folder)
        own.write_bytes(folder.best.read_bytes())
        with pytest.raises(RunError, match=r"teacher was \w{64}, now \w{64}"):
            run(recipe, folder, resume=True)


class TestAnAveragedRun:
    @pytest.fixture
    def after(self, run, folder, make_recipe):
        """The checkpoint and the state after one epoch."""
        best = run(make_recipe(epochs=1, average_decay=0.5), folder)
        return best, torch.load(folder.last, weights_only=True)["state"]

    def test_saves_the_average_and_not_the_latest_weights(self, after):
        best, state = after
        average = {name.removeprefix("module."): each for name, each in state["average"].items() if "." in name}
        assert average.keys() == best.weights.keys()
        assert all(torch.equal(best.weights[name], weight) for name, weight in average.items())
        assert not torch.equal(best.weights["0.weight"], state["network"]["0.weight"])

    def test_validates_the_average(self, after, dataset):
        best, state = after
        _, validation = hold_out(dataset.train, 0.1)
        loss, accuracy = measure(best.recogniser(), validation)
        assert best.metrics["validation_loss"] == pytest.approx(loss, rel=1e-5)
        assert best.metrics["validation_accuracy"] == accuracy
        latest = dataclasses.replace(best, weights=state["network"])
        assert measure(latest.recogniser(), validation)[0] != pytest.approx(loss, rel=1e-3)


class TestATaughtRun:
    def test_by_the_teacher_alone_learns_what_the_teacher_believes(self, run, folder, make_recipe, teacher, dataset):
        best = run(make_recipe(epochs=6, teacher=str(teacher), teacher_weight=1.0), folder)
        # Labels choose the best epoch, and for them that is the one that has learnt least.
        latest = torch.load(folder.last, weights_only=True)["state"]["network"]
        answers = predict(dataclasses.replace(best, weights=latest).recogniser(), dataset.test).argmax(axis=1)
        believed = predict(checkpoints.load(teacher).recogniser(), dataset.test).argmax(axis=1)
        assert (answers == believed).mean() > 0.9
        assert (answers == dataset.test.labels.numpy()).mean() < 0.1

    def test_by_the_labels_alone_gives_the_numbers_of_an_untaught_one(self, run, tmp_path, make_recipe, teacher):
        taught, alone = (new_folder(tmp_path / name) for name in ("taught", "alone"))
        run(make_recipe(teacher=str(teacher), teacher_weight=0.0, augmentation=EVERYTHING), taught)
        run(make_recipe(augmentation=EVERYTHING), alone)
        assert numbers(taught)[1:] == numbers(alone)[1:]

    def test_shows_the_teacher_the_same_distorted_images(self, run, folder, make_recipe, teacher, monkeypatch):
        seen = []

        def watch(state, *arguments, **options):
            create(state, *arguments, **options)
            for network in (state.network, state.teacher):
                network.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].clone())))

        create = TrainingState.__init__
        monkeypatch.setattr(TrainingState, "__init__", watch)
        monkeypatch.setattr(loop, "measure", lambda recogniser, split: (0.5, 0.5))
        run(make_recipe(epochs=1, teacher=str(teacher), augmentation=EVERYTHING), folder)
        assert len(seen) == 12
        for (student, asked), (master, told) in zip(seen[::2], seen[1::2], strict=True):
            assert student is not master
            assert torch.equal(asked, told)

    def test_whose_teacher_is_missing_deletes_nothing(self, run, folder, make_recipe):
        folder.best.write_bytes(b"precious")
        with pytest.raises(CheckpointError, match=r"nowhere\.pt does not exist"):
            run(make_recipe(teacher="nowhere.pt"), folder)
        assert folder.best.read_bytes() == b"precious"

    def test_whose_teacher_is_no_checkpoint_deletes_nothing(self, run, folder, make_recipe, tmp_path):
        (tmp_path / "teacher.pt").write_text("no weights")
        folder.best.write_bytes(b"precious")
        with pytest.raises(CheckpointError, match=r"teacher\.pt is not a checkpoint"):
            run(make_recipe(teacher=str(tmp_path / "teacher.pt")), folder)
        assert folder.best.read_bytes() == b"precious"


def by_hand(logits, target):
    """Mean cross-entropy with a distribution over digits."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


class TestTheLoss:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    taught = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    smooth = 0.9 * torch.nn.functional.one_hot(labels, 10) + 0.01

    def test_smooths_labels_evenly_over_all_digits(self, make_recipe):
        loss = loop._loss(make_recipe(label_smoothing=0.1), self.logits, self.labels, None)
        torch.testing.assert_close(loss, by_hand(self.logits, self.smooth))

    def test_weighs_labels_and_teacher_at_the_teachers_temperature(self, make_recipe):
        recipe = make_recipe(label_smoothing=0.1, teacher_weight=0.3, teacher_temperature=4.0)
        loss = loop._loss(recipe, self.logits, self.labels, self.taught)
        distance = 16 * by_hand(self.logits / 4, (self.taught / 4).softmax(dim=1))
        torch.testing.assert_close(loss, 0.7 * by_hand(self.logits, self.smooth) + 0.3 * distance)


class TestACalibratedRun:
    @pytest.fixture
    def runs(self, run, tmp_path, make_recipe):
        folders = new_folder(tmp_path / "plain"), new_folder(tmp_path / "calibrated")
        recipe = make_recipe(epochs=1, label_smoothing=0.3)  # leaves it less sure than it may be
        return folders, run(recipe, folders[0]), run(dataclasses.replace(recipe, calibrate=True), folders[1])

    def test_has_the_test_metrics_of_the_checkpoint_that_it_leaves(self, runs, dataset):
        (_, folder), plain, best = runs
        saved = checkpoints.load(folder.best)
        expected = examine(saved.recogniser(), dataset.test)
        assert expected.items() <= saved.metrics.items()
        assert saved.metrics == best.metrics
        assert json.loads(folder.history.read_text())["test"] == expected
        assert best.metrics["test_loss"] != plain.metrics["test_loss"]

    def test_gives_the_same_answers_with_a_smaller_loss_on_what_was_held_out(self, runs, dataset):
        _, plain, best = runs
        _, validation = hold_out(dataset.train, 0.1)
        answers = [predict(each.recogniser(), validation).argmax(axis=1).tolist() for each in (plain, best)]
        assert answers[0] == answers[1]
        assert measure(best.recogniser(), validation)[0] == pytest.approx(best.metrics["validation_loss"], rel=1e-4)
        assert best.metrics["validation_loss"] < plain.metrics["validation_loss"] - 0.01

    def test_is_calibrated_once_however_often_it_is_resumed(self, runs, run):
        (_, folder), _, best = runs
        content = folder.best.read_bytes()
        again = run(make(best.recipe), folder, resume=True)
        assert again.metrics == best.metrics
        assert folder.best.read_bytes() == content

    def test_chooses_its_best_epoch_by_what_calibration_will_make_of_it(self, run, folder, recipe, monkeypatch):
        losses = iter((0.3, 0.1, 0.2))
        monkeypatch.setattr(loop, "measure_calibrated", lambda recogniser, split: (next(losses), 0.5))
        assert run(dataclasses.replace(recipe, calibrate=True), folder).epoch == 2


def make(recipe):
    """The recipe whose fields a checkpoint holds."""
    return Recipe(**recipe | {"augmentation": Augmentation(**recipe["augmentation"])})


def test_weights_are_float32_whatever_the_precision_of_training(run, folder, make_recipe):
    best = run(make_recipe(epochs=1, average_decay=0.5), folder, precision=torch.bfloat16)
    assert {weight.dtype for weight in best.weights.values()} == {torch.float32, torch.int64}


def test_the_precision_of_training_shows_in_the_numbers(run, tmp_path, recipe):
    single, half = (new_folder(tmp_path / name) for name in ("single", "half"))
    losses = [
        run(recipe, folder, precision=precision).metrics["validation_loss"]
        for folder, precision in ((single, torch.float32), (half, torch.bfloat16))
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


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


def test_a_batch_that_the_workers_cannot_share_is_refused(run, folder, make_recipe):
    with pytest.raises(RecipeError, match="batch_size is 33; it must be a multiple of 2, the workers"):
        run(make_recipe(batch_size=33), folder, workers=Workers(0, 2))


def test_a_new_run_deletes_the_files_of_the_one_it_replaces(run, folder, recipe, monkeypatch):
    run(recipe, folder)
    interrupt_in_step(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder)
    assert list(folder.path.iterdir()) == []
