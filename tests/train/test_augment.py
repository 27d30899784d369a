import pytest
import torch

from train.augment import Augmentation, augment, random_affine, random_centre_crop
from train.errors import RecipeError

NO_WARP = {"rotation_degrees": 0.0, "shift_pixels": 0.0, "scale": 0.0, "shear_degrees": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int = 64) -> torch.Tensor:
    """A bright, off-centre bar on black in each image."""
    images = torch.zeros(count, 1, 28, 28)
    images[:, :, 8:12, 10:20] = 1.0
    return images


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass of each image, in pixels: [N, 2], row and column."""
    positions = torch.arange(28.0)
    mass = images.sum(dim=(1, 2, 3))
    rows = (images.sum(dim=3).squeeze(1) * positions).sum(dim=1) / mass
    columns = (images.sum(dim=2).squeeze(1) * positions).sum(dim=1) / mass
    return torch.stack((rows, columns), dim=1)


def test_an_augmentation_of_nothing_returns_the_images_themselves():
    images = blobs()
    assert augment(images, Augmentation(), generator()) is images


def test_a_warp_of_nothing_changes_nothing():
    images = torch.rand(4, 1, 28, 28, generator=generator())
    torch.testing.assert_close(random_affine(images, **NO_WARP, generator=generator()), images, atol=1e-4, rtol=0)


def test_a_seed_decides_the_distortion():
    everything = Augmentation(rotation_degrees=10, shift_pixels=2, scale=0.1, shear_degrees=5, crop_probability=0.5)
    first, again, other = (augment(blobs(), everything, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_image_of_a_batch_is_distorted_differently():
    images = random_affine(blobs(8), **NO_WARP | {"rotation_degrees": 20.0}, generator=generator())
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_shifts_stay_within_their_bound_and_reach_for_it():
    moved = centres(random_affine(blobs(), **NO_WARP | {"shift_pixels": 3.0}, generator=generator())) - centres(blobs())
    assert 2.5 < moved.abs().max() <= 3.001


def test_rotation_keeps_the_distance_from_the_centre():
    rotated = random_affine(blobs(), **NO_WARP | {"rotation_degrees": 30.0}, generator=generator())
    distances = (centres(rotated) - 13.5).norm(dim=1)
    torch.testing.assert_close(distances, (centres(blobs()) - 13.5).norm(dim=1), atol=0.1, rtol=0)
    assert (centres(rotated) - centres(blobs())).norm(dim=1).max() > 1


def test_scale_changes_the_area_within_its_bounds():
    areas = random_affine(blobs(), **NO_WARP | {"scale": 0.2}, generator=generator()).sum(dim=(1, 2, 3)) / 40
    assert 0.8**2 - 0.02 < areas.min() < 0.75
    assert 1.35 < areas.max() < 1.2**2 + 0.02


def test_shear_moves_rows_along_the_other_axis_and_keeps_the_area():
    sheared = random_affine(blobs(), **NO_WARP | {"shear_degrees": 20.0}, generator=generator())
    torch.testing.assert_close(sheared.sum(dim=(1, 2, 3)), torch.full((64,), 40.0), atol=0.5, rtol=0)
    moved = (centres(sheared) - centres(blobs())).abs()
    assert moved[:, 1].max() > 0.5
    assert moved[:, 0].max() < 0.1


class TestCrop:
    def test_a_probability_of_one_enlarges_every_image(self):
        cropped = random_centre_crop(blobs(), probability=1.0, generator=generator())
        torch.testing.assert_close(cropped.sum(dim=(1, 2, 3)), torch.full((64,), 40 * (28 / 22) ** 2), atol=0.5, rtol=0)

    def test_the_border_is_cut_off(self):
        frame = torch.ones(1, 1, 28, 28)
        frame[..., 3:25, 3:25] = 0
        assert random_centre_crop(frame, probability=1.0, generator=generator()).sum() == 0

    def test_about_the_given_share_of_images_is_cropped(self):
        images = blobs(1000)
        cropped = random_centre_crop(images, probability=0.1, generator=generator())
        assert 60 < (cropped != images).flatten(1).any(dim=1).sum() < 140


@pytest.mark.parametrize("field", ["rotation_degrees", "shift_pixels", "scale", "shear_degrees", "crop_probability"])
@pytest.mark.parametrize("value", [-1.0, 1000.0, float("nan")])
def test_an_amount_out_of_range_is_refused_with_field_and_value(field, value):
    with pytest.raises(RecipeError, match=rf"{field} is {value}; it must lie between 0 and"):
        Augmentation(**{field: value})
