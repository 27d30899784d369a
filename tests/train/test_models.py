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


def random_pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_all_published_architectures_are_known():
    assert ARCHITECTURES.keys() == PUBLISHED_PARAMETERS.keys()


@pytest.mark.parametrize(("architecture", "parameters"), PUBLISHED_PARAMETERS.items())
class TestEachArchitecture:
    def test_has_the_published_number_of_parameters(self, architecture, parameters):
        assert parameter_count(build(architecture)) == parameters

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

    def test_arguments_reach_the_layers(self):
        rates = [layer.p for layer in build("compact", dropout=0.3) if isinstance(layer, torch.nn.Dropout)]
        assert rates == [0.3, 0.3]
