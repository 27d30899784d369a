"""Random distortions of training images: each image of a batch gets amounts of its own."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from train.errors import RecipeError
from train.transforms import distort

# Nodes along each side of the lattice that an elastic distortion moves: about one per 5 pixels.
_LATTICE = 6


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far training images are distorted. The default leaves them as they are."""

    rotation_degrees: float = 0.0
    """Largest rotation, in either direction."""

    shift_pixels: float = 0.0
    """Largest shift along each axis, in either direction."""

    scale: float = 0.0
    """Largest relative change of size: 0.1 draws from 0.9 to 1.1."""

    stretch: float = 0.0
    """Largest relative change of width against height, likewise."""

    shear_degrees: float = 0.0
    """Largest slant, in either direction."""

    elastic_pixels: float = 0.0
    """Largest standard deviation of the elastic distortion, in pixels; each image draws its own up to it."""

    crop_probability: float = 0.0
    """Share of images that are cropped to their central 22 x 22 pixels and enlarged again."""

    stroke_pixels: float = 0.0
    """Largest change of a stroke's width on each side, thinner or thicker, up to 1."""

    blur: float = 0.0
    """Largest share of a 3 x 3 blur."""

    fade: float = 0.0
    """Largest loss of contrast: 0.4 draws ink from 0.6 to 1, and paper up to a quarter of the loss."""

    shade: float = 0.0
    """Largest fall of the ink's brightness from one side of the image to the other."""

    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, on pixels of 0..1."""

    plain_probability: float = 0.0
    """Share of images that are spared all from `stroke_pixels` to `noise`."""

    cutout_pixels: float = 0.0
    """Largest side of a square that is blackened, at a random place."""

    def __post_init__(self) -> None:
        upper_bounds = {
            "rotation_degrees": 180.0,
            "shift_pixels": 28.0,
            "scale": 0.9,
            "stretch": 0.9,
            "shear_degrees": 80.0,
            "elastic_pixels": 5.0,
            "crop_probability": 1.0,
            "stroke_pixels": 1.0,
            "blur": 1.0,
            "fade": 0.75,  # above 0.8, paper could be brighter than ink
            "shade": 1.0,
            "noise": 1.0,
            "plain_probability": 1.0,
            "cutout_pixels": 28.0,
        }
        for field, upper_bound in upper_bounds.items():
            value = getattr(self, field)
            if not 0 <= value <= upper_bound:
                raise RecipeError(f"{field} is {value}; it must lie between 0 and {upper_bound:g}")


def augment(images: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Distorts a batch at random: shape first, then ink, then what paper and camera add.

    Args:
        images: float32 [N, 1, 28, 28] of 0..1, white on black.
        augmentation: How far.
        generator: Source of the random numbers, on the images' device.

    Returns:
        The images in a new tensor, or themselves if there is nothing to do.
    """
    a, count, size = augmentation, len(images), images.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=images.device)

    def symmetric(*shape: int) -> Tensor:
        return uniform(*shape) * 2 - 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=images.device)

    if a.crop_probability:
        images = distort.centre_crop(images, uniform(count) < a.crop_probability)
    if a.rotation_degrees or a.shift_pixels or a.scale or a.stretch or a.shear_degrees or a.elastic_pixels:
        zoom = 1 + symmetric(count) * a.scale
        stretch = 1 + symmetric(count) * a.stretch
        images = distort.warp(
            images,
            angle=symmetric(count) * math.radians(a.rotation_degrees),
            slant=torch.tan(symmetric(count) * math.radians(a.shear_degrees)),
            zoom=torch.stack((zoom * stretch.sqrt(), zoom / stretch.sqrt())),
            shift=symmetric(2, count) * a.shift_pixels,
            bend=normal(count, 2, _LATTICE, _LATTICE) * uniform(count, 1, 1, 1) * a.elastic_pixels
            if a.elastic_pixels
            else None,
        )
    # 0 for an image that stays plain, 1 for one that other pens and cameras have made.
    seen = (uniform(count) < 1 - a.plain_probability).float() if a.plain_probability else 1.0
    if a.stroke_pixels:
        images = distort.thicken(images, symmetric(count) * a.stroke_pixels * seen)
    if a.blur:
        images = distort.blur(images, uniform(count) * a.blur * seen)
    if a.shade:
        across, down = (symmetric(count) * a.shade * seen for _ in range(2))
        images = distort.shade(images, across=across, down=down)
    if a.fade:
        loss = uniform(count) * a.fade * seen
        images = distort.fade(images, ink=1 - loss, paper=loss * uniform(count) / 4)
    if a.noise:
        grain = normal(*images.shape)
        images = distort.add_noise(images, grain * (uniform(count) * a.noise * seen).view(-1, 1, 1, 1))
    if a.cutout_pixels:
        row, column = uniform(2, count) * size
        images = distort.cut_out(images, row=row, column=column, side=uniform(count) * a.cutout_pixels)
    return images
