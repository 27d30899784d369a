"""Several checkpoints as one, by the command that makes it."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from train import checkpoint as checkpoints
from train import committee, data
from train.inference import predict


@pytest.fixture
def other(trained, tmp_path):
    """A second member: the trained network with its weights disturbed."""
    best = checkpoints.load(trained)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: tensor + 0.05 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and tensor.ndim > 1
        else tensor
        for name, tensor in best.weights.items()
    }
    path = tmp_path / "other.pt"
    checkpoints.save(path, replace(best, weights=weights, seed=1))
    return path


@pytest.fixture
def convene(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns its exit status and what it printed on both streams."""

    def convene(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.committee", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        status = committee.main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return convene


def test_a_committee_answers_with_the_mean_of_its_members_logits(convene, tmp_path, trained, other):
    status, printed, _ = convene(trained, other)
    assert status == 0
    joined = checkpoints.load(tmp_path / "runs/committee/best.pt")
    test = data.load("digits8x8").test[:50]
    members = [torch.from_numpy(predict(checkpoints.load(path).recogniser(), test)).log() for path in (trained, other)]
    expected = torch.softmax(torch.stack(members).mean(dim=0), dim=1)
    torch.testing.assert_close(torch.from_numpy(predict(joined.recogniser(), test)), expected, atol=1e-4, rtol=0)
    assert f"{joined.metrics['test_accuracy']:.2%}" in printed


def test_its_result_stands_beside_those_of_the_sweeps(convene, tmp_path, trained, other):
    convene(trained, other, "--name", "both")
    joined = checkpoints.load(tmp_path / "runs/both/best.pt")
    result = json.loads((tmp_path / "benchmarks/results/accuracy-both-digits8x8.json").read_text())
    assert result["mean"] == joined.metrics
    assert result["conditions"]["device"] == "cpu"
    assert result["parameters"] == 2 * 16_146
    assert [member["seed"] for member in result["recipe"]["members"]] == [checkpoints.load(trained).seed, 1]


def test_one_member_is_refused(convene, trained):
    status, _, error = convene(trained)
    assert status == 1
    assert "at least two members" in error


def test_members_of_different_data_are_refused(convene, tmp_path, trained):
    best = checkpoints.load(trained)
    foreign = tmp_path / "foreign.pt"
    checkpoints.save(foreign, replace(best, data={"name": "mnist", "sha256": "0" * 64}))
    status, _, error = convene(trained, foreign)
    assert status == 1
    assert "share their data" in error


def test_results_that_could_not_be_written_are_refused_before_any_work(convene, tmp_path, trained, other):
    (tmp_path / "file").write_text("")
    status, _, error = convene(trained, other, "--results", tmp_path / "file" / "results")
    assert status == 1
    assert "cannot be made (Not a directory); choose another folder with --results" in error
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_checkpoint_is_named(convene, tmp_path, trained):
    (tmp_path / "note.pt").write_text("not a checkpoint")
    status, _, error = convene(trained, tmp_path / "note.pt")
    assert status == 1
    assert "note.pt is not a checkpoint" in error


def test_an_earlier_committee_is_kept_unless_told_otherwise(convene, trained, other):
    assert convene(trained, other)[0] == 0
    status, _, error = convene(trained, other)
    assert status == 1
    assert "--overwrite" in error
    assert convene(trained, other, "--overwrite")[0] == 0
