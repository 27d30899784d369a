import dataclasses

import numpy as np
import pytest
import torch

from train.calibrate import calibrated, last_layer, measure_calibrated, temperature
from train.checkpoint import Checkpoint
from train.data import Split
from train.errors import ArchitectureError
from train.inference import measure, predict
from train.models import ARCHITECTURES, build, normalise


def drawn(probabilities: torch.Tensor) -> torch.Tensor:
    """Labels as likely as the probabilities say."""
    return torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return 2 * torch.randn(4000, 10, generator=torch.Generator().manual_seed(0))


class TestTemperature:
    """Labels are drawn from soft-max of the logits; the network claims another multiple of them."""

    @pytest.mark.parametrize("planted", [0.4, 0.5, 1.0, 2.0, 5.0])
    def test_planted_is_found(self, logits, planted):
        labels = drawn(logits.softmax(dim=1)).numpy()
        found = temperature((logits * planted).softmax(dim=1).numpy(), labels)
        assert found == pytest.approx(planted, rel=0.04)

    def test_of_a_network_that_knows_nothing_is_held_within_bounds(self, logits):
        labels = torch.randint(0, 10, (4000,), generator=torch.Generator().manual_seed(2)).numpy()
        assert 10 < temperature((logits * 5).softmax(dim=1).numpy(), labels) < 21

    def test_of_a_network_that_is_always_right_is_held_within_bounds(self, logits):
        found = temperature(logits.softmax(dim=1).numpy(), logits.argmax(dim=1).numpy())
        assert 0.36 < found < 0.38

    def test_is_finite_where_a_probability_has_underflowed(self):
        assert np.isfinite(temperature(np.eye(10, dtype=np.float32), np.arange(10)[::-1].copy()))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (500, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def honest(images) -> Checkpoint:
    """A network whose digits are all in play, and which is taken at its word in `validation`."""
    torch.manual_seed(0)
    network = build("one_by_one").eval()
    with torch.no_grad():
        logits = network(normalise(images / 255))
        deviation, mean = torch.std_mean(logits, dim=0)
        last = network[-1]
        last.bias.copy_((last.bias - mean) * 2 / deviation)
        last.weight.mul_(2 / deviation.unsqueeze(1))
    return Checkpoint(
        architecture="one_by_one",
        arguments={},
        weights=network.state_dict(),
        recipe={},
        seed=0,
        epoch=4,
        metrics={"train_loss": 0.7, "validation_loss": 0.5, "validation_accuracy": 0.1},
        data={"name": "patterns", "sha256": "0" * 64},
    )


@pytest.fixture(scope="module")
def validation(honest, images) -> Split:
    blank = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return Split(images, drawn(torch.from_numpy(predict(honest.recogniser(), blank))))


def claiming(checkpoint: Checkpoint, factor: float) -> Checkpoint:
    """The same network, its logits multiplied."""
    scaled = {name: checkpoint.weights[name] * factor for name in ("14.weight", "14.bias")}
    return dataclasses.replace(checkpoint, weights=checkpoint.weights | scaled)


@pytest.mark.parametrize("factor", [0.45, 4.0], ids=["too modest", "too sure"])
class TestACheckpoint:
    def test_is_brought_back_to_what_fits(self, honest, validation, factor):
        once, back = (calibrated(each, validation).weights["14.weight"] for each in (honest, claiming(honest, factor)))
        torch.testing.assert_close(back, once, rtol=1e-3, atol=0)
        torch.testing.assert_close(back, honest.weights["14.weight"], rtol=0.15, atol=0)

    def test_gives_the_same_answers_with_a_smaller_loss(self, honest, validation, factor):
        before = claiming(honest, factor)
        after = calibrated(before, validation)
        old, new = (predict(each.recogniser(), validation) for each in (before, after))
        np.testing.assert_array_equal(new.argmax(axis=1), old.argmax(axis=1))
        assert measure(after.recogniser(), validation)[0] < measure(before.recogniser(), validation)[0] - 0.05

    def test_has_the_loss_that_was_foretold_and_the_accuracy_that_it_had(self, honest, validation, factor):
        before = claiming(honest, factor)
        loss, accuracy = measure_calibrated(before.recogniser(), validation)
        expected_loss, expected_accuracy = measure(calibrated(before, validation).recogniser(), validation)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert accuracy == expected_accuracy == measure(before.recogniser(), validation)[1]

    def test_differs_in_the_last_layer_only_and_the_old_one_in_nothing(self, honest, validation, factor):
        before = claiming(honest, factor)
        weights = {name: weight.clone() for name, weight in before.weights.items()}
        after = calibrated(before, validation)
        changed = {name for name, weight in weights.items() if not torch.equal(after.weights[name], weight)}
        assert changed == {"14.weight", "14.bias"}
        assert all(torch.equal(before.weights[name], weight) for name, weight in weights.items())
        kept = ("architecture", "arguments", "recipe", "seed", "epoch", "metrics", "data")
        assert all(getattr(after, field) == getattr(before, field) for field in kept)


def test_what_is_calibrated_already_does_not_get_worse(honest, validation):
    once = calibrated(honest, validation)
    twice = calibrated(once, validation)
    losses = [measure(each.recogniser(), validation)[0] for each in (honest, once, twice)]
    assert losses[1] <= losses[0] + 1e-5
    assert losses[2] <= losses[1] + 1e-5
    torch.testing.assert_close(twice.weights["14.weight"], once.weights["14.weight"], rtol=1e-3, atol=0)


def test_a_network_that_has_left_the_finite_numbers_shows_in_the_loss(honest, validation):
    broken = dataclasses.replace(honest, weights=honest.weights | {"14.bias": torch.full((10,), float("nan"))})
    assert np.isnan(measure_calibrated(broken.recogniser(), validation)[0])


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "committee"])
def test_every_network_but_a_committee_can_be_calibrated(architecture):
    assert last_layer(build(architecture)).out_features == 10


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused(validation):
    members = [{"architecture": "one_by_one", "arguments": {}}]
    committee = Checkpoint(
        architecture="committee",
        arguments={"members": members},
        weights=build("committee", members=members).state_dict(),
        recipe={},
        seed=0,
        epoch=1,
        metrics={},
        data={"name": "patterns", "sha256": "0" * 64},
    )
    with pytest.raises(ArchitectureError, match="ends in Committee; calibration scales a final Linear layer"):
        calibrated(committee, validation[:20])
