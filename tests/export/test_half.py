"""Half precision: batch norm disappears without changing the function, and only then is anything rounded."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export import half
from export.errors import GraphError
from tests.fakes import images
from train.models import Committee, Recogniser, build, normalise

COMMITTEE = {
    "members": [
        {"architecture": "compact", "arguments": {}},
        {"architecture": "lenet_bn", "arguments": {}},
    ]
}


def network(architecture: str, **arguments: object) -> nn.Sequential:
    """A network from a fixed seed, whose batch norms have seen something: fresh ones would change next to nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build(architecture, **arguments).eval()
        with torch.no_grad():
            for layer in made.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.weight.uniform_(0.5, 2)
                    layer.bias.normal_()
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.2, 2)
    return made


def content_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def logits(module: nn.Module, count: int = 32) -> Tensor:
    with torch.inference_mode():
        return module(normalise(torch.from_numpy(images(count)).to(torch.float32) / 255))


@pytest.fixture(params=["compact", "lenet_bn", "one_by_one", "committee"])
def any_network(request) -> nn.Sequential:
    """With batch norm after convolutions, after a linear layer as well, without any, and of several members."""
    return network(request.param, **(COMMITTEE if request.param == "committee" else {}))


def batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (each for each in module.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d))


# Folding


def test_folding_leaves_no_batch_norm_and_the_same_function(any_network):
    folded = half.fold(any_network)
    assert not list(batch_norms(folded))
    expected, found = logits(any_network), logits(folded)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_folded_recogniser_answers_within_a_hundred_thousandth(any_network):
    recogniser, pixels = Recogniser(any_network).eval(), torch.from_numpy(images(32))
    with torch.inference_mode():
        torch.testing.assert_close(half.folded(recogniser)(pixels), recogniser(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("convert", [half.folded, half.halve])
def test_the_original_keeps_its_layers_its_type_and_its_weights(any_network, convert):
    before, norms, answers = content_of(any_network), len(list(batch_norms(any_network))), logits(any_network)
    converted = convert(Recogniser(any_network).eval())
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()  # shared memory would show
    after = content_of(any_network)
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype and before[name].equal(after[name]) for name in before)
    assert len(list(batch_norms(any_network))) == norms
    assert logits(any_network).equal(answers)


MISPLACED = {
    "a BatchNorm2d follows ReLU": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)),
    "a BatchNorm1d follows Flatten": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10)),
    "a BatchNorm2d follows nothing": nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)),
    "a BatchNorm1d follows Conv2d": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm1d(2)),
}


@pytest.mark.parametrize(("message", "misplaced"), MISPLACED.items(), ids=MISPLACED.keys())
def test_a_batch_norm_that_follows_something_else_is_refused_in_a_committee_too(message, misplaced):
    for place in (misplaced, nn.Sequential(Committee([misplaced]))):
        with pytest.raises(GraphError, match=f"^{message}; it can be folded only into the convolution or linear layer"):
            half.fold(place.eval())


@pytest.mark.parametrize("convert", [half.folded, half.halve])
def test_a_network_in_training_mode_is_refused(convert):
    with pytest.raises(GraphError, match=r"^the network is in training mode; call eval\(\) before converting$"):
        convert(Recogniser(network("compact")).train())


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.Dropout, nn.Conv2d])
def test_a_single_layer_in_training_mode_is_refused(kind):
    made = network("compact")
    next(layer for layer in made if isinstance(layer, kind)).train()
    with pytest.raises(GraphError, match="in training mode"):
        half.fold(made)


# Halving


def test_fp16_weights_are_the_folded_fp32_weights_rounded(any_network):
    folded, halved = half.fold(any_network), half.halve(Recogniser(any_network).eval())
    expected, found = list(folded.parameters()), list(halved.parameters())
    assert len(expected) == len(found) > 0
    for before, after in zip(expected, found, strict=True):
        assert (before.dtype, after.dtype) == (torch.float32, torch.float16)
        assert after.equal(before.to(torch.float16))
    # Folding what was rounded already gives other weights: the order shows.
    if list(batch_norms(any_network)):
        late = half.fold(any_network.to(torch.float16)).parameters()
        assert not all(after.equal(other) for after, other in zip(found, late, strict=True))


def test_a_halved_recogniser_takes_bytes_and_gives_float32_near_the_originals(any_network):
    recogniser, pixels = Recogniser(any_network).eval(), torch.from_numpy(images(32))
    with torch.inference_mode():
        expected, found = recogniser(pixels), half.halve(recogniser)(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    assert not found.equal(expected)


def test_pixels_are_normalised_and_soft_max_is_taken_in_fp32():
    # Passes ten pixels through as they are: all that FP16 does to them is to round them once.
    linear = nn.Linear(784, 10, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(10, 784))
    pixels = torch.from_numpy(images(64))
    with torch.inference_mode():
        found = half.halve(Recogniser(nn.Sequential(nn.Flatten(), linear)).eval())(pixels)
    normalised = normalise(pixels[:, 0, 0, :10].to(torch.float32) / 255)
    torch.testing.assert_close(found, torch.softmax(normalised.to(torch.float16).float(), dim=1), rtol=0, atol=1e-7)
    assert not found.equal(found.to(torch.float16).float())


def test_a_halved_network_overflows_where_fp16_does():
    # 1e5 and back again: nothing in FP32, infinite in FP16.
    up, down = nn.Linear(784, 10, bias=False), nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        up.weight.copy_(4e4 * torch.eye(10, 784))
        down.weight.copy_(torch.eye(10) / 4e4)
    recogniser = Recogniser(nn.Sequential(nn.Flatten(), up, nn.ReLU(), down)).eval()
    pixels = torch.from_numpy(np.full((1, 1, 28, 28), 255, np.uint8))
    with torch.inference_mode():
        assert recogniser(pixels).isfinite().all()
        assert not half.halve(recogniser)(pixels).isfinite().any()


# Counting


def counted(*weights: float) -> half.Weights:
    linear = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([weights]))
    return half.round_weights(linear)


# FP16's borders: 65520 is halfway between its largest number and the next one that there would be, 2**-25 halfway
# between nothing and its smallest.
WEIGHTS = {
    "ordinary": ((1.0, -0.3, 0.0, -0.0, 65504.0, -65519.0, 2.0**-14), (0, 0, 0)),
    "overflowing": ((65520.0, -70000.0, 1e38, 1.0), (3, 0, 0)),
    "vanishing": ((2.0**-25, -1e-9, 1e-38, 0.0), (0, 3, 0)),
    "subnormal": ((2.0**-24, -(2.0**-15), 1.01 * 2.0**-25, 6e-5, 2.0**-14), (0, 0, 4)),
    "of every kind": ((1e6, -1e6, 1e-12, 3e-6, -4e-6, 5e-6, 0.5), (2, 1, 3)),
}


@pytest.mark.parametrize(("weights", "expected"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_that_fp16_changes_beyond_rounding_are_counted(weights, expected):
    found = counted(*weights)
    assert found.count == len(weights)
    assert (found.overflowing, found.vanishing, found.subnormal) == expected


def test_weights_and_biases_of_all_layers_are_counted_in_a_committee_too():
    members = [nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(2)]
    with torch.no_grad():
        for member in members:
            member[1].weight.fill_(1)
            member[1].bias.fill_(1e5)
    found = half.round_weights(Committee(members))
    assert (found.count, found.overflowing) == (2 * 7850, 20)


# Peaks


def test_peaks_are_the_largest_magnitudes_of_a_plain_computation(any_network):
    recogniser = half.folded(Recogniser(any_network).eval())
    pixels = images(1003)
    pixels[:-1] //= 4  # the peak of many layers is in the last few, which no round number of images reaches

    expected: dict[str, float] = {}

    def compute(module: nn.Module, name: str, values: Tensor) -> Tensor:
        match module:
            case nn.Sequential():
                for key, layer in module.named_children():
                    values = compute(layer, f"{name}{key}.", values)
                return values
            case Committee():
                made = [compute(each, f"{name}members.{seat}.", values) for seat, each in enumerate(module.members)]
                return torch.stack(made).mean(dim=0)
            case _:
                values = module(values.clone())
        if isinstance(module, nn.Conv2d | nn.Linear):
            expected[f"{name[:-1]} {type(module).__name__}"] = float(values.abs().max())
        return values

    with torch.inference_mode():
        compute(recogniser.network, "", normalise(torch.from_numpy(pixels).float() / 255))
    found = half.peaks(recogniser, torch.from_numpy(pixels))
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_peak_below_zero_counts_although_the_next_layer_cuts_it_off():
    linear = nn.Linear(784, 10)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(-70000.0)
    layers = nn.Sequential(nn.Flatten(), linear, nn.ReLU(inplace=True), nn.Linear(10, 10))
    found = half.peaks(Recogniser(layers).eval(), torch.from_numpy(images(2)))
    assert found["1 Linear"] == 70000


def test_measuring_peaks_leaves_the_recogniser_as_it_was():
    recogniser = half.folded(Recogniser(network("compact")).eval())
    strong, weak = torch.from_numpy(images(4)), torch.zeros((4, 1, 28, 28), dtype=torch.uint8)
    first = half.peaks(recogniser, strong)
    with torch.inference_mode():
        recogniser(weak)
    assert half.peaks(recogniser, strong) == first
    assert half.peaks(recogniser, weak) != first
