"""What happens to handwriting on its way to a camera, as pure functions of a batch of images.

Images are float32 [N, 1, 28, 28] of 0..1, white on black. Amounts are float32 [N], one per image, on
the device of the images, unless said otherwise. Who calls decides the amounts: `augment` draws them,
`corrupt` fixes them.
"""

import torch
from torch import Tensor
from torch.nn import functional

CROP_SIZE = 22  # pixels; the crop of the one_by_one publication


def warp(
    images: Tensor,
    *,
    angle: Tensor,
    slant: Tensor,
    zoom: Tensor,
    shift: Tensor,
    bend: Tensor | None = None,
) -> Tensor:
    """Rotates, slants, resizes, shifts and bends each image with one interpolation.

    Args:
        images: float32 [N, 1, 28, 28].
        angle: Rotation in radians.
        slant: Tangent of the angle by which upright lines lean.
        zoom: Factors of width and height, float32 [2, N].
        shift: Pixels to the left and upwards, before the rest, float32 [2, N].
        bend: Pixels to the left and upwards, likewise, at the nodes of a coarse lattice over the image,
            float32 [N, 2, nodes, nodes], interpolated in between: an elastic distortion.
    """
    size = images.shape[-1]
    to_grid = 2 / size  # the sampling grid spans -1..1
    # affine_grid wants, for each output pixel, where in the input to look: rotation x shear / zoom.
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack((cosine / zoom[0], (cosine * slant - sine) / zoom[1], shift[0] * to_grid), dim=1),
        torch.stack((sine / zoom[0], (sine * slant + cosine) / zoom[1], shift[1] * to_grid), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    if bend is not None:
        field = functional.interpolate(bend * to_grid, size=(size, size), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def centre_crop(images: Tensor, chosen: Tensor) -> Tensor:
    """Replaces the chosen images (bool [N]) by their central 22 x 22 pixels, enlarged to the full size."""
    size = images.shape[-1]
    margin = (size - CROP_SIZE) // 2
    centre = images[..., margin : margin + CROP_SIZE, margin : margin + CROP_SIZE]
    enlarged = functional.interpolate(centre, size=(size, size), mode="bilinear", align_corners=False)
    return torch.where(_per_image(chosen), enlarged, images)


def thicken(images: Tensor, amount: Tensor) -> Tensor:
    """Widens strokes by `amount` pixels on each side, or narrows them where it is below 0; from -1 to 1.

    Fractions blend with the dilated or eroded image.
    """
    wide = functional.max_pool2d(images, kernel_size=3, stride=1, padding=1)
    narrow = -functional.max_pool2d(-images, kernel_size=3, stride=1, padding=1)
    amount = _per_image(amount)
    return torch.lerp(images, torch.where(amount > 0, wide, narrow), amount.abs())


def blur(images: Tensor, amount: Tensor) -> Tensor:
    """Blends with the mean over 3 x 3 pixels: 0 leaves an image as it is, 1 blurs it fully."""
    mean = functional.avg_pool2d(images, kernel_size=3, stride=1, padding=1)
    return torch.lerp(images, mean, _per_image(amount))


def fade(images: Tensor, *, ink: Tensor, paper: Tensor) -> Tensor:
    """Maps black to `paper` and white to `ink`, both 0 to 1: faint pencil on paper that is not clean."""
    return torch.lerp(_per_image(paper), _per_image(ink), images)


def shade(images: Tensor, *, across: Tensor, down: Tensor) -> Tensor:
    """Dims the ink towards one side, by up to `across` and `down` (-1 to 1): a shadow over the page."""
    ramp = torch.linspace(-0.5, 0.5, images.shape[-1], device=images.device)
    light = 1 - (across.abs() + down.abs())[:, None, None] / 2
    light = light + across[:, None, None] * ramp + down[:, None, None] * ramp[:, None]
    return images * light.clamp(0, 1).unsqueeze(1)


def add_noise(images: Tensor, noise: Tensor) -> Tensor:
    """Adds noise of the images' own shape and keeps the result within 0..1."""
    return (images + noise).clamp(0, 1)


def cut_out(images: Tensor, *, row: Tensor, column: Tensor, side: Tensor) -> Tensor:
    """Blackens a square around a place, all in pixels."""
    position = torch.arange(images.shape[-1], device=images.device)
    in_rows = (position - row[:, None]).abs() < side[:, None] / 2
    in_columns = (position - column[:, None]).abs() < side[:, None] / 2
    hole = in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(hole.unsqueeze(1), 0)


def _per_image(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)
