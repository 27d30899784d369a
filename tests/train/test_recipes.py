import dataclasses

import pytest

from train.errors import RecipeError
from train.models import ARCHITECTURES, build
from train.recipes import RECIPES


@pytest.mark.parametrize(("name", "make"), RECIPES.items())
def test_each_recipe_builds_the_architecture_of_its_name(name, make):
    recipe = make()
    assert recipe.architecture == name
    build(recipe.architecture, **recipe.arguments)


def test_each_architecture_has_a_recipe():
    assert RECIPES.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("make", RECIPES.values())
def test_each_recipe_says_what_was_published_and_what_was_chosen(make):
    assert "Published" in make.__doc__


def test_a_recipe_cannot_be_changed(make_recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_recipe().epochs = 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("optimiser", "lion"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("schedule", "cosine"),
        ("step_epochs", 0),
        ("step_factor", 0.0),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("patience", 0),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_what_is_allowed(make_recipe, field, value):
    with pytest.raises(RecipeError, match=rf"^{field} is {value!r}; it must be "):
        make_recipe(**{field: value})
