import pytest
import torch

from train.state import EpochMetrics, TrainingState

CPU = torch.device("cpu")


def with_validation_losses(recipe, *losses):
    state = TrainingState(recipe, seed=0, device=CPU)
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


def test_a_restored_state_draws_the_same_random_numbers(make_recipe):
    state = TrainingState(make_recipe(), seed=0, device=CPU)
    saved = state.state_dict()
    drawn = torch.rand(3), torch.rand(3, generator=state.generator)
    restored = TrainingState(make_recipe(), seed=1, device=CPU)
    restored.load_state_dict(saved)
    assert torch.equal(torch.rand(3), drawn[0])
    assert torch.equal(torch.rand(3, generator=restored.generator), drawn[1])
