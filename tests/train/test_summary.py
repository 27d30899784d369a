import pytest

from train.models import ARCHITECTURES, build, parameter_count
from train.summary import main, summarise, table


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "committee"])
def test_the_layers_parameters_add_up_to_the_networks(name):
    network = build(name)
    layers = summarise(network)
    assert sum(layer.parameters for layer in layers) == parameter_count(network)
    assert layers[-1].shape == (10,)


def test_the_receptive_field_is_computed_not_copied():
    """The publication gives 5, 11, 15, 19 and 27; with pooling of 2 x 2 it is 24 in the end."""
    convolutions = [layer for layer in summarise(build("compact")) if layer.name.startswith("Conv2d")]
    assert [(layer.receptive_field, layer.jump) for layer in convolutions] == [
        (3, 1),
        (5, 1),
        (10, 2),
        (14, 2),
        (24, 4),
        (24, 4),
    ]


def test_layers_that_join_all_places_have_no_receptive_field():
    flatten, linear = summarise(build("compact"))[-2:]
    assert (flatten.name, flatten.receptive_field, flatten.jump) == ("Flatten", None, None)
    assert (linear.name, linear.receptive_field, linear.jump) == ("Linear 392-10", None, None)


def test_multiply_adds_are_those_of_the_definition():
    first, *_, last = summarise(build("compact"))
    assert first.multiply_adds == 28 * 28 * 16 * 9
    assert last.multiply_adds == 392 * 10


def test_the_table_has_a_line_per_layer_and_the_totals():
    layers = summarise(build("compact"))
    head, *lines, total = table(layers).splitlines()
    assert head.split()[:2] == ["layer", "output"]
    assert len(lines) == len(layers)
    assert total.split()[:2] == ["total", "16,146"]


@pytest.mark.parametrize(("arguments", "message"), [(["compct"], "did you mean 'compact'"), ([], "usage: ")])
def test_a_name_that_is_not_known_is_answered_with_the_nearest(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    assert main() == 2
    assert message in capsys.readouterr().err


def test_the_help_names_all_that_it_shows(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["summary", "--help"])
    assert main() == 0
    names = capsys.readouterr().out.removeprefix("usage: python -m train.summary NAME, one of ").strip().split(", ")
    assert set(names) == ARCHITECTURES.keys() - {"committee"}


def test_a_committee_is_answered_with_what_its_members_may_be(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["summary", "committee"])
    assert main() == 2
    assert "error: a committee has the layers of its members; name one: dropout_cnn, " in capsys.readouterr().err
