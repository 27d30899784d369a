import copy

import pytest
import torch

from train.checkpoint import save
from train.distributed import Workers
from train.errors import CheckpointError
from train.state import EpochMetrics, TrainingState

CPU = torch.device("cpu")


def with_validation_losses(recipe, *losses, seed=0):
    state = TrainingState(recipe, seed=seed, device=CPU)
    for epoch, loss in enumerate(losses, start=1):
        state.history.append(
            EpochMetrics(
                epoch=epoch,
                train_loss=0.0,
                train_accuracy=1.0,
                validation_loss=loss,
                validation_accuracy=1.0,
                learning_rate=0.1,
                seconds=1.0,
            )
        )
    return state


def test_the_best_epoch_is_the_first_with_the_smallest_validation_loss(make_recipe):
    assert with_validation_losses(make_recipe(), 0.5, 0.2, 0.3, 0.2).best.epoch == 2


def test_before_the_first_epoch_nothing_is_best_or_finished(make_recipe):
    state = with_validation_losses(make_recipe(patience=1))
    assert state.best is None
    assert not state.finished


@pytest.mark.parametrize(
    ("patience", "losses", "finished"),
    [
        (None, (0.1, 0.2, 0.3, 0.4), False),
        (2, (0.1, 0.2), False),
        (2, (0.1, 0.2, 0.3), True),
        (2, (0.3, 0.4, 0.2, 0.3), False),
        (None, (0.5, 0.4, 0.3, 0.2, 0.1), True),
    ],
)
def test_a_run_is_finished_after_all_epochs_or_out_of_patience(make_recipe, patience, losses, finished):
    assert with_validation_losses(make_recipe(epochs=5, patience=patience), *losses).finished is finished


def test_the_seed_decides_the_initial_weights(make_recipe):
    first, again, other = (TrainingState(make_recipe(), seed=s, device=CPU).network[0].weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def draws(state, rank=0, count=2):
    """What the coming epoch draws in one worker: the order of the images, their distortion, dropout."""
    state.workers = Workers(rank, count)
    order, distortion = state.begin_epoch()
    return [
        torch.rand(4, generator=order).tolist(),
        torch.rand(4, generator=distortion).tolist(),
        torch.rand(4).tolist(),
    ]


class TestTheRandomNumbersOfAnEpoch:
    def test_are_the_same_again_whatever_was_drawn_before(self, make_recipe):
        first = draws(TrainingState(make_recipe(), seed=0, device=CPU))
        torch.rand(7)
        assert draws(TrainingState(make_recipe(), seed=0, device=CPU)) == first

    def test_give_all_workers_one_order_and_each_a_distortion_and_dropout_of_its_own(self, make_recipe):
        state = TrainingState(make_recipe(), seed=0, device=CPU)
        orders, distortions, dropouts = zip(*(draws(state, rank, 4) for rank in range(4)), strict=True)
        assert all(order == orders[0] for order in orders)
        assert len({*map(tuple, distortions), *map(tuple, dropouts)}) == 8

    def test_differ_from_epoch_to_epoch_and_from_seed_to_seed(self, make_recipe):
        states = [
            with_validation_losses(make_recipe(), *losses, seed=seed)
            for seed, losses in ((0, ()), (0, (0.5,)), (0, (0.5, 0.4)), (1, ()), (1, (0.5,)))
        ]
        for kind in zip(*map(draws, states), strict=True):
            assert len({tuple(numbers) for numbers in kind}) == len(states)

    def test_of_a_worker_alone_are_those_of_the_first(self, make_recipe):
        state = TrainingState(make_recipe(), seed=0, device=CPU)
        assert draws(state, rank=0, count=1) == draws(state, rank=0, count=2)

    def test_are_those_of_another_seed_for_each_purpose(self, make_recipe):
        order, distortion, dropout = draws(TrainingState(make_recipe(), seed=0, device=CPU))
        assert order != distortion != dropout != order

    def test_go_on_after_a_restored_state_as_if_nothing_had_been(self, make_recipe):
        whole = with_validation_losses(make_recipe(), 0.5, 0.4)
        restored = TrainingState(make_recipe(), seed=0, device=CPU)
        restored.load_state_dict(whole.state_dict())
        assert draws(restored) == draws(whole)


def step(state):
    """An optimiser step on random images."""
    images = torch.rand(8, 1, 28, 28)
    state.network.train()
    state.connected(images).square().mean().backward()
    state.step()


def weights(network):
    return {name: weight.clone() for name, weight in network.state_dict().items() if weight.is_floating_point()}


class TestTheAverage:
    def test_is_absent_unless_asked_for(self, make_recipe):
        state = TrainingState(make_recipe(), seed=0, device=CPU)
        assert state.average is None
        assert state.recogniser.network is state.network

    @pytest.mark.parametrize("decay", [0.3, 0.99])
    def test_is_the_moving_average_of_weights_and_statistics(self, make_recipe, decay):
        state = TrainingState(make_recipe(average_decay=decay), seed=0, device=CPU)
        step(state)
        expected = weights(state.network)
        torch.testing.assert_close(weights(state.recogniser.network), expected)
        for number in range(2, 9):
            step(state)
            now = weights(state.network)
            share = min(decay, (number - 1) / (number + 9))  # a short run has an average, too
            expected = {name: share * before + (1 - share) * now[name] for name, before in expected.items()}
        found = weights(state.recogniser.network)
        assert "1.running_var" in found
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found["0.weight"], now["0.weight"], atol=1e-3)

    def test_of_many_steps_decays_as_was_asked_for(self, make_recipe):
        state = TrainingState(make_recipe(average_decay=0.9), seed=0, device=CPU)
        with torch.no_grad():
            for number in range(1, 301):
                state.network[0].bias.fill_(number)
                state.step()
        # The mean of an exponential average lags behind a steady rise by decay / (1 - decay) steps.
        torch.testing.assert_close(state.recogniser.network[0].bias, torch.full((16,), 300 - 9.0))

    def test_goes_on_after_a_restored_state_as_if_nothing_had_been(self, make_recipe):
        recipe = make_recipe(average_decay=0.8, optimiser="adamw")
        whole = TrainingState(recipe, seed=0, device=CPU)
        for _ in range(3):
            step(whole)
        restored = TrainingState(recipe, seed=1, device=CPU)
        restored.load_state_dict(copy.deepcopy(whole.state_dict()))
        for state in (whole, restored):
            torch.manual_seed(0)
            for _ in range(2):
                step(state)
        assert weights(restored.recogniser.network).keys() == weights(whole.recogniser.network).keys()
        for network in ("network", "average"):
            ours, theirs = (weights(getattr(state, network)) for state in (restored, whole))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class TestTheTeacher:
    def test_is_absent_unless_named(self, make_recipe):
        assert TrainingState(make_recipe(), seed=0, device=CPU).teacher is None

    def test_is_read_and_not_trained(self, make_recipe, checkpoint, tmp_path):
        save(tmp_path / "teacher.pt", checkpoint)
        teacher = TrainingState(make_recipe(teacher=str(tmp_path / "teacher.pt")), seed=0, device=CPU).teacher
        assert torch.equal(teacher[0].weight, checkpoint.weights["0.weight"])
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())

    def test_does_not_change_what_the_student_starts_from(self, make_recipe, checkpoint, tmp_path):
        save(tmp_path / "teacher.pt", checkpoint)
        recipes = make_recipe(), make_recipe(teacher=str(tmp_path / "teacher.pt"))
        alone, taught = (TrainingState(recipe, seed=3, device=CPU).network[0].weight for recipe in recipes)
        assert torch.equal(alone, taught)

    def test_that_is_missing_is_an_error_with_its_path(self, make_recipe):
        with pytest.raises(CheckpointError, match=r"nowhere/best\.pt does not exist"):
            TrainingState(make_recipe(teacher="nowhere/best.pt"), seed=0, device=CPU)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_recipe_names_the_optimiser_and_its_decay(make_recipe, name, kind):
    optimiser = TrainingState(make_recipe(optimiser=name, weight_decay=0.03), seed=0, device=CPU).optimiser
    assert type(optimiser) is kind
    assert optimiser.param_groups[0]["weight_decay"] == 0.03
