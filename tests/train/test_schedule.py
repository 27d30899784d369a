import pytest

from train.schedule import WARM_UP, learning_rate


def test_a_constant_rate_does_not_change(make_recipe):
    recipe = make_recipe(schedule="constant", learning_rate=0.1)
    assert {learning_rate(recipe, epochs_done) for epochs_done in (0, 0.5, 2.9)} == {0.1}


def test_a_step_schedule_falls_by_its_factor_at_whole_epochs_only(make_recipe):
    recipe = make_recipe(schedule="step", learning_rate=1.0, step_epochs=2, step_factor=0.1, epochs=6)
    rates = [learning_rate(recipe, epochs_done) for epochs_done in (0, 1.99, 2, 3.99, 4)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_one_cycle_rises_to_the_rate_and_falls_to_nothing_whatever_the_epochs(make_recipe, epochs):
    recipe = make_recipe(schedule="one_cycle", learning_rate=0.02, epochs=epochs)
    rates = [learning_rate(recipe, share * epochs) for share in (0, WARM_UP / 2, WARM_UP, (1 + WARM_UP) / 2, 1)]
    assert rates == pytest.approx([0, 0.01, 0.02, 0.01, 0])
