import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.errors import RecipeError
from train.transforms.augment import Augmentation, augment

# The largest amount of each distortion that is allowed.
BOUNDS = {
    "rotation_degrees": 180.0,
    "shift_pixels": 28.0,
    "scale": 0.9,
    "stretch": 0.9,
    "shear_degrees": 80.0,
    "elastic_pixels": 5.0,
    "crop_probability": 1.0,
    "stroke_pixels": 1.0,
    "blur": 1.0,
    "fade": 0.75,
    "shade": 1.0,
    "noise": 1.0,
    "plain_probability": 1.0,
    "cutout_pixels": 28.0,
}

EVERYTHING = Augmentation(**{field: bound / 4 for field, bound in BOUNDS.items()})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(count: int = 16) -> torch.Tensor:
    """The same picture many times."""
    return torch.rand(1, 1, 28, 28, generator=generator(5)).expand(count, -1, -1, -1).clone()


def distinct(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


def test_an_augmentation_of_nothing_returns_the_images_themselves_and_draws_nothing():
    images, numbers = same(), generator()
    assert augment(images, Augmentation(), numbers) is images
    assert torch.equal(numbers.get_state(), generator().get_state())


def test_the_bounds_of_every_distortion_are_known_here():
    assert [field.name for field in dataclasses.fields(Augmentation)] == list(BOUNDS)


def test_a_seed_decides_the_distortion():
    first, again, other = (augment(same(), EVERYTHING, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_the_generator_given_is_drawn_from_and_the_images_are_left_alone():
    state, images = torch.get_rng_state(), same()
    augment(images, EVERYTHING, generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, same())


@pytest.mark.parametrize("field", [field for field in BOUNDS if not field.endswith("_probability")])
def test_each_image_of_a_batch_gets_an_amount_of_its_own(field):
    assert distinct(augment(same(), Augmentation(**{field: BOUNDS[field]}), generator())) == 16


def test_about_the_given_share_of_images_is_cropped():
    cropped = augment(same(1000), Augmentation(crop_probability=0.1), generator())
    assert distinct(cropped) == 2
    assert 60 < (cropped != same(1000)).flatten(1).any(dim=1).sum() < 140


@pytest.mark.parametrize("field", ["stroke_pixels", "blur", "shade", "fade", "noise"])
def test_about_the_given_share_of_images_is_spared_other_pens_and_cameras(field):
    most = Augmentation(**{field: BOUNDS[field], "plain_probability": 0.1})
    assert 60 < (augment(same(1000), most, generator()) == same(1000)).flatten(1).all(dim=1).sum() < 140


def test_images_that_stay_plain_are_distorted_in_shape_all_the_same():
    never = Augmentation(shift_pixels=3.0, noise=1.0, plain_probability=1.0)
    shifted = augment(same(), never, generator())
    assert distinct(shifted) == 16
    assert torch.equal(shifted, augment(same(), Augmentation(shift_pixels=3.0), generator()))


@pytest.mark.parametrize(
    ("field", "bound", "amount"),
    [
        ("shift_pixels", 3.0, lambda images: columns(images) - 13.5),
        ("scale", 0.2, lambda images: (images.sum(dim=(1, 2, 3)) / 100).sqrt() - 1),
        ("stretch", 0.2, lambda images: images[:, 0, 14].sum(dim=1) / images[:, 0, :, 14].sum(dim=1) - 1),
        ("stroke_pixels", 1.0, lambda images: (images[:, 0, 14].sum(dim=1) - 10) / 2),
    ],
)
def test_amounts_go_both_ways_stay_within_their_bound_and_reach_for_it(field, bound, amount):
    square = torch.zeros(400, 1, 28, 28)
    square[:, :, 9:19, 9:19] = 1
    amounts = amount(augment(square, Augmentation(**{field: bound}), generator()))
    assert -1.05 * bound < amounts.min() < -0.9 * bound
    assert 0.9 * bound < amounts.max() < 1.05 * bound
    assert abs(amounts.mean()) < 0.1 * bound


def columns(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.arange(28.0)).sum(dim=(1, 2, 3)) / images.sum(dim=(1, 2, 3))


def test_the_strongest_loss_of_contrast_leaves_ink_brighter_than_paper():
    half = torch.zeros(2000, 1, 28, 28)
    half[..., 14:] = 1
    faded = augment(half, Augmentation(fade=BOUNDS["fade"]), generator())
    assert (faded[..., 20] - faded[..., 5]).min() > 0


STRENGTHS = st.fixed_dictionaries({field: st.sampled_from((0.0, bound / 3, bound)) for field, bound in BOUNDS.items()})


@settings(deadline=None, max_examples=60)
@given(amounts=STRENGTHS, seed=st.integers(0, 2**32))
def test_whatever_is_asked_for_images_keep_shape_and_range(amounts, seed):
    images = torch.rand(4, 1, 28, 28, generator=generator(seed))
    distorted = augment(images, Augmentation(**amounts), generator(seed))
    assert distorted.shape == images.shape
    assert distorted.dtype == torch.float32
    assert torch.isfinite(distorted).all()
    assert distorted.min() >= -1e-6
    assert distorted.max() <= 1 + 1e-6


def test_the_strongest_of_all_keeps_shape_and_range():
    distorted = augment(same(200), Augmentation(**BOUNDS), generator())
    assert distorted.shape == (200, 1, 28, 28)
    assert distorted.min() >= -1e-6
    assert distorted.max() <= 1 + 1e-6


@pytest.mark.parametrize(("field", "bound"), BOUNDS.items())
@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_an_amount_out_of_range_is_refused_with_field_and_value(field, bound, share):
    with pytest.raises(RecipeError, match=rf"^{field} is {share * bound}; it must lie between 0 and {bound:g}$"):
        Augmentation(**{field: share * bound})
