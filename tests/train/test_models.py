import copy
import math

import pytest
import torch
from torch.export import Dim, export

from train.errors import ArchitectureError
from train.models import ARCHITECTURES, MEAN, STD, Recogniser, build, normalise, parameter_count

PUBLISHED_PARAMETERS = {
    "dropout_cnn": 421_642,
    "four_conv": 593_200,
    "lenet_bn": 871_530,
    "compact": 16_146,
    "one_by_one": 24_210,
}

PARAMETERS = {**PUBLISHED_PARAMETERS, "champion": 513_546}
"""Of every architecture but the committee, which has those of its members."""


def random_pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_architecture_is_tested_here():
    assert ARCHITECTURES.keys() == {*PARAMETERS, "committee"}


@pytest.mark.parametrize(("architecture", "parameters"), PARAMETERS.items())
class TestEachArchitecture:
    def test_has_the_number_of_parameters_that_it_states(self, architecture, parameters):
        assert parameter_count(build(architecture)) == parameters
        assert f"{parameters:,} parameters" in ARCHITECTURES[architecture].__doc__

    def test_returns_ten_logits_per_image(self, architecture, parameters):
        assert build(architecture).eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)

    def test_exports_as_a_recogniser_of_any_batch_size(self, architecture, parameters):
        recogniser = Recogniser(build(architecture)).eval()
        program = export(recogniser, (random_pixels(2),), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
        pixels = random_pixels(5)
        torch.testing.assert_close(program.module()(pixels), recogniser(pixels))


class TestRecogniser:
    def test_returns_probabilities_that_sum_to_one(self):
        probabilities = Recogniser(build("compact")).eval()(random_pixels(4))
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))

    def test_gives_the_network_scaled_and_normalised_pixels(self):
        seen = []
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        Recogniser(network)(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8))
        torch.testing.assert_close(seen[0], torch.full((1, 1, 28, 28), (1 - MEAN) / STD))

    def test_normalising_maps_mean_to_zero_and_one_deviation_to_one(self):
        torch.testing.assert_close(normalise(torch.tensor([MEAN, MEAN + STD])), torch.tensor([0.0, 1.0]))


class TestBuild:
    def test_an_unknown_architecture_is_answered_with_the_nearest(self):
        with pytest.raises(ArchitectureError, match="'compct': did you mean 'compact'"):
            build("compct")

    def test_an_unknown_argument_is_answered_with_the_nearest(self):
        with pytest.raises(ArchitectureError, match="argument of compact 'drop': did you mean 'dropout'"):
            build("compact", drop=0.1)

    def test_an_argument_out_of_range_is_refused(self):
        with pytest.raises(ArchitectureError, match="between 0 and 1, but got 2"):
            build("compact", dropout=2)

    def test_an_argument_that_is_no_number_is_refused(self):
        with pytest.raises(ArchitectureError, match="dropout of compact is nan; it must be a number"):
            build("compact", dropout=math.nan)

    def test_arguments_reach_the_layers(self):
        rates = [layer.p for layer in build("compact", dropout=0.3) if isinstance(layer, torch.nn.Dropout)]
        assert rates == [0.3, 0.3]


def member(architecture, **arguments):
    return {"architecture": architecture, "arguments": arguments}


TWO = (member("compact", dropout=0.1), member("one_by_one"))


class TestACommittee:
    def test_answers_with_the_mean_of_its_members_logits(self):
        network = build("committee", members=TWO).eval()
        images = normalise(random_pixels(5) / 255)
        first, second = (each(images) for each in network[0].members)
        torch.testing.assert_close(network(images), (first + second) / 2)
        assert not torch.allclose(first, second, atol=1e-3)

    def test_is_of_the_geometric_mean_of_its_members_opinions(self):
        network = build("committee", members=TWO).eval()
        opinions = [Recogniser(each).eval()(random_pixels(5)) for each in network[0].members]
        mean = (opinions[0] * opinions[1]).sqrt()
        torch.testing.assert_close(Recogniser(network).eval()(random_pixels(5)), mean / mean.sum(dim=1, keepdim=True))

    def test_has_the_members_and_parameters_that_were_asked_for(self):
        network = build("committee", members=TWO)
        assert parameter_count(network) == 16_146 + 24_210
        assert network[0].members[0][6].p == 0.1

    def test_may_have_one_member_and_is_that(self):
        network = build("committee", members=[member("compact")]).eval()
        images = normalise(random_pixels(3) / 255)
        torch.testing.assert_close(network(images), network[0].members[0](images))

    def test_exports_as_a_recogniser_of_any_batch_size(self):
        recogniser = Recogniser(build("committee", members=TWO)).eval()
        program = export(recogniser, (random_pixels(2),), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
        torch.testing.assert_close(program.module()(random_pixels(5)), recogniser(random_pixels(5)))

    def test_of_committees_is_refused(self):
        with pytest.raises(ArchitectureError, match="members are networks, not committees"):
            build("committee", members=[member("compact"), member("committee", members=TWO)])

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ([], "needs at least one member"),
            (None, "needs at least one member"),
            (5, "cannot be built"),
            ("compact", "cannot be built"),
            (["compact"], "cannot be built"),
            ([{"architecture": "compact"}], "cannot be built with .*'arguments'"),
            ([{"arguments": {}}], "cannot be built with .*'architecture'"),
            ([{"architecture": "compact", "arguments": None}], "cannot be built"),
            ([{"architecture": ["compact"], "arguments": {}}], "cannot be built"),
            ([{"architecture": 5, "arguments": {}}], "cannot be built"),
            ([{"architecture": "compact", "arguments": {1: 2}}], "cannot be built"),
            ([member("compct")], "unknown architecture 'compct': did you mean 'compact'"),
            ([member("compact", dropuot=0.1)], "unknown argument of compact 'dropuot': did you mean 'dropout'"),
            ([member("compact", dropout=2)], "compact cannot be built with .*between 0 and 1"),
            ([{"architecture": "compact", "arguments": {"architecture": "compact"}}], "architecture"),
        ],
    )
    def test_whose_members_are_malformed_is_refused(self, members, message):
        with pytest.raises(ArchitectureError, match=message):
            build("committee", members=copy.deepcopy(members))

    def test_without_members_is_refused(self):
        with pytest.raises(ArchitectureError, match="missing 1 required keyword-only argument: 'members'"):
            build("committee")
