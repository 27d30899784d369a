"""The learning rate as a pure function of time, so that a resumed run has nothing to restore."""

from typing import assert_never

from train.recipes import Recipe

# Share of a one-cycle run in which the rate rises; it falls during the rest.
WARM_UP = 0.25


def learning_rate(recipe: Recipe, epochs_done: float) -> float:
    """Returns the learning rate to use when `epochs_done` epochs, a fractional number, are over."""
    return recipe.learning_rate * _factor(recipe, epochs_done)


def _factor(recipe: Recipe, epochs_done: float) -> float:
    match recipe.schedule:
        case "constant":
            return 1.0
        case "step":
            return recipe.step_factor ** (int(epochs_done) // recipe.step_epochs)
        case "one_cycle":
            progress = epochs_done / recipe.epochs
            return min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
        case _:
            assert_never(recipe.schedule)
