import dataclasses
import json

import pytest

from train.calibrate import last_layer
from train.errors import RecipeError
from train.models import ARCHITECTURES, build
from train.recipes import RECIPES

PUBLISHED = ("dropout_cnn", "four_conv", "lenet_bn", "compact", "one_by_one")


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES.keys())
class TestEachRecipe:
    def test_builds_its_network(self, make):
        build(make().architecture, **make().arguments)

    def test_that_calibrates_has_a_network_that_can_be(self, make):
        recipe = make()
        if recipe.calibrate:
            last_layer(build(recipe.architecture, **recipe.arguments))

    def test_is_the_same_at_every_call_and_plain_values(self, make):
        assert make() == make()
        fields = dataclasses.asdict(make())
        assert json.loads(json.dumps(fields)) == fields

    def test_says_in_a_line_what_it_is(self, make):
        assert make.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_architecture_of_its_name_and_says_what_was_published_and_what_chosen(name):
    assert RECIPES[name]().architecture == name
    assert "Published" in RECIPES[name].__doc__


def test_each_published_architecture_has_a_recipe():
    assert set(PUBLISHED) <= ARCHITECTURES.keys() & RECIPES.keys()


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
        ("label_smoothing", -0.1),
        ("label_smoothing", 1.0),
        ("teacher_weight", -0.1),
        ("teacher_weight", 1.1),
        ("teacher_temperature", 0.0),
        ("teacher_temperature", float("inf")),
        ("teacher_temperature", float("nan")),
        ("average_decay", -0.1),
        ("average_decay", 1.0),
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("optimiser", each) for each in ("sgd", "adam", "adamw")),
        *(("label_smoothing", each) for each in (0.0, 0.99)),
        *(("teacher_weight", each) for each in (0.0, 1.0)),
        *(("average_decay", each) for each in (0.0, 0.9999)),
    ],
)
def test_a_value_at_the_end_of_its_range_is_taken(make_recipe, field, value):
    assert getattr(make_recipe(**{field: value}), field) == value
