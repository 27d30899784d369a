"""Random distortions of a batch of images, as pure functions of tensors and a generator.

Images are float32 [N, 1, 28, 28] of 0..1, white on black, on the device of the generator. Every
image of a batch gets its own random numbers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from train.errors import RecipeError

CROP_SIZE = 22  # pixels; the crop of the one_by_one publication


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far training images are distorted. The default leaves them as they are."""

    rotation_degrees: float = 0.0
    """Largest rotation, in either direction."""

    shift_pixels: float = 0.0
    """Largest shift along each axis, in either direction."""

    scale: float = 0.0
    """Largest relative change of size: 0.1 draws from 0.9 to 1.1."""

    shear_degrees: float = 0.0
    """Largest slant, in either direction."""

    crop_probability: float = 0.0
    """Share of images that are cropped to their central 22 x 22 pixels and enlarged again."""

    def __post_init__(self) -> None:
        upper_bounds = {
            "rotation_degrees": 180.0,
            "shift_pixels": 28.0,
            "scale": 0.9,
            "shear_degrees": 80.0,
            "crop_probability": 1.0,
        }
        for field, upper_bound in upper_bounds.items():
            value = getattr(self, field)
            if not 0 <= value <= upper_bound:
                raise RecipeError(f"{field} is {value}; it must lie between 0 and {upper_bound:g}")


def augment(images: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Returns the images distorted at random, in a new tensor unless there is nothing to do."""
    a = augmentation
    if a.crop_probability:
        images = random_centre_crop(images, probability=a.crop_probability, generator=generator)
    if a.rotation_degrees or a.shift_pixels or a.scale or a.shear_degrees:
        images = random_affine(
            images,
            rotation_degrees=a.rotation_degrees,
            shift_pixels=a.shift_pixels,
            scale=a.scale,
            shear_degrees=a.shear_degrees,
            generator=generator,
        )
    return images


def random_centre_crop(images: Tensor, *, probability: float, generator: Generator) -> Tensor:
    """Replaces some of the images by their central 22 x 22 pixels, enlarged to the full size."""
    size = images.shape[-1]
    margin = (size - CROP_SIZE) // 2
    centre = images[..., margin : margin + CROP_SIZE, margin : margin + CROP_SIZE]
    enlarged = functional.interpolate(centre, size=(size, size), mode="bilinear", align_corners=False)
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < probability
    return torch.where(chosen, enlarged, images)


def random_affine(
    images: Tensor,
    *,
    rotation_degrees: float,
    shift_pixels: float,
    scale: float,
    shear_degrees: float,
    generator: Generator,
) -> Tensor:
    """Rotates, slants, resizes and shifts each image by amounts drawn uniformly up to those given."""
    count, _, _, size = images.shape
    # One row of draws per kind of distortion, each uniform in -1..1: [5, N].
    draws = torch.rand(5, count, generator=generator, device=images.device) * 2 - 1
    angle = draws[0] * math.radians(rotation_degrees)
    slant = torch.tan(draws[1] * math.radians(shear_degrees))
    zoom = 1 + draws[2] * scale
    shift = draws[3:5] * (2 * shift_pixels / size)  # the sampling grid spans -1..1

    # affine_grid wants, for each output pixel, where in the input to look: rotation x shear / zoom.
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = (
        torch.stack((cosine, cosine * slant - sine, shift[0]), dim=1),
        torch.stack((sine, sine * slant + cosine, shift[1]), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
