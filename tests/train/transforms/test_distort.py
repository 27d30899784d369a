import math

import pytest
import torch

from train.transforms import distort
from train.transforms.distort import CROP_SIZE


def bars(count: int = 8) -> torch.Tensor:
    """A bright, off-centre bar of 4 x 10 pixels on black in each image."""
    images = torch.zeros(count, 1, 28, 28)
    images[:, :, 8:12, 10:20] = 1.0
    return images


def noise(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def spread(low: float, high: float, count: int = 8) -> torch.Tensor:
    """Amounts from one end to the other."""
    return torch.linspace(low, high, count)


def ink(images: torch.Tensor) -> torch.Tensor:
    """Sum of the pixels of each image: [N]."""
    return images.sum(dim=(1, 2, 3))


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass of each image, in pixels: [N, 2], row and column."""
    positions = torch.arange(28.0)
    rows = (images.sum(dim=3).squeeze(1) * positions).sum(dim=1)
    columns = (images.sum(dim=2).squeeze(1) * positions).sum(dim=1)
    return torch.stack((rows, columns), dim=1) / ink(images).unsqueeze(1)


def warp(images: torch.Tensor, **amounts: torch.Tensor) -> torch.Tensor:
    """Warps by the amounts given and by nothing else."""
    nothing = {
        "angle": torch.zeros(len(images)),
        "slant": torch.zeros(len(images)),
        "zoom": torch.ones(2, len(images)),
        "shift": torch.zeros(2, len(images)),
    }
    return distort.warp(images, **nothing | amounts)


NOTHING = torch.zeros(8)

IDENTITIES = {
    "centre_crop": lambda images: distort.centre_crop(images, torch.zeros(8, dtype=torch.bool)),
    "thicken": lambda images: distort.thicken(images, NOTHING),
    "blur": lambda images: distort.blur(images, NOTHING),
    "fade": lambda images: distort.fade(images, ink=torch.ones(8), paper=NOTHING),
    "shade": lambda images: distort.shade(images, across=NOTHING, down=NOTHING),
    "add_noise": lambda images: distort.add_noise(images, torch.zeros_like(images)),
    "cut_out": lambda images: distort.cut_out(images, row=spread(0, 27), column=spread(27, 0), side=NOTHING),
}


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_an_amount_of_nothing_changes_nothing(identity):
    assert torch.equal(identity(noise()), noise())


@pytest.mark.parametrize("bend", [None, torch.zeros(8, 2, 6, 6)], ids=["without bend", "with a bend of nothing"])
def test_a_warp_of_nothing_changes_nothing_but_rounding(bend):
    torch.testing.assert_close(warp(noise(), bend=bend), noise(), atol=1e-4, rtol=0)


class TestWarp:
    def test_shifts_by_the_pixels_given_to_the_left_and_upwards(self):
        moved = warp(bars(), shift=torch.stack((torch.full((8,), 3.0), torch.full((8,), -2.0))))
        torch.testing.assert_close(moved, bars().roll((2, -3), dims=(2, 3)), atol=1e-4, rtol=0)

    def test_rotates_about_the_centre(self):
        turned = warp(noise(), angle=torch.full((8,), math.pi / 2))
        torch.testing.assert_close(turned, torch.rot90(noise(), dims=(2, 3)), atol=1e-4, rtol=0)

    def test_rotation_by_any_angle_keeps_area_and_distance_from_the_centre(self):
        turned = warp(bars(), angle=spread(-0.6, 0.6))
        torch.testing.assert_close(ink(turned), torch.full((8,), 40.0), atol=0.5, rtol=0)
        distances = (centres(turned) - 13.5).norm(dim=1)
        torch.testing.assert_close(distances, (centres(bars()) - 13.5).norm(dim=1), atol=0.1, rtol=0)

    def test_zoom_multiplies_width_and_height_each_by_its_factor(self):
        square = torch.zeros(4, 1, 28, 28)
        square[:, :, 9:19, 9:19] = 1.0
        zoomed = warp(square, zoom=torch.tensor([[0.6, 1.0, 1.4, 1.4], [1.0, 1.4, 1.0, 0.6]]))
        widths, heights = zoomed[:, 0, 14].sum(dim=1), zoomed[:, 0, :, 14].sum(dim=1)
        torch.testing.assert_close(widths, torch.tensor([6.0, 10.0, 14.0, 14.0]), atol=0.3, rtol=0)
        torch.testing.assert_close(heights, torch.tensor([10.0, 14.0, 10.0, 6.0]), atol=0.3, rtol=0)

    def test_slant_moves_rows_sideways_in_proportion_to_their_height_and_keeps_the_area(self):
        column = torch.zeros(3, 1, 28, 28)
        column[:, :, 4:24, 13:15] = 1.0
        slanted = warp(column, slant=torch.tensor([-0.3, 0.0, 0.3]))
        torch.testing.assert_close(ink(slanted), torch.full((3,), 40.0), atol=0.5, rtol=0)
        positions = torch.arange(28.0)
        per_row = (slanted * positions).sum(dim=3) / slanted.sum(dim=3)  # [3, 1, rows]
        lean = per_row[:, 0, 20] - per_row[:, 0, 7]  # 13 rows apart
        torch.testing.assert_close(lean, 13 * torch.tensor([0.3, 0.0, -0.3]), atol=0.1, rtol=0)

    def test_each_image_has_amounts_of_its_own(self):
        moved = warp(bars(), shift=torch.stack((spread(-4, 4), torch.zeros(8))))
        torch.testing.assert_close((centres(bars()) - centres(moved))[:, 1], spread(-4, 4), atol=1e-3, rtol=0)

    def test_what_comes_from_outside_is_black(self):
        white = torch.ones(1, 1, 28, 28)
        moved = warp(white, shift=torch.tensor([[10.0], [0.0]]))
        assert moved[..., 18:].max() < 1e-4
        assert moved[..., :17].min() == pytest.approx(1, abs=1e-4)


class TestBend:
    """An image whose brightness is the place shows how far each pixel was moved."""

    @pytest.fixture
    def moved(self) -> torch.Tensor:
        """Pixels to the side at each place, where one node of the lattice is moved by 2: [28, 28]."""
        place = (torch.arange(28.0) / 28).expand(1, 1, 28, 28)
        bend = torch.zeros(1, 2, 6, 6)
        bend[0, 0, 2, 2] = 2.0  # row and column 10.8 of the image
        return (warp(place, bend=bend) - place)[0, 0] * 28

    def test_moves_most_at_the_node_by_the_amount_given(self, moved):
        assert 1.8 < moved.max() <= 2.0
        assert divmod(moved.argmax().item(), 28) == (11, 11)

    def test_leaves_what_is_two_nodes_away(self, moved):
        assert moved[22:].abs().max() < 1e-4
        assert moved[:22, 22:27].abs().max() < 1e-4

    def test_moves_neighbours_alike(self, moved):
        inside = moved[1:-1, 1:-1]
        assert inside.diff(dim=0).abs().max() < 0.6
        assert inside.diff(dim=1).abs().max() < 0.6

    def test_of_every_node_by_the_same_is_a_shift(self):
        bend = torch.stack((torch.full((8, 6, 6), 3.0), torch.full((8, 6, 6), -2.0)), dim=1)
        shifted = warp(bars(), shift=torch.tensor([[3.0], [-2.0]]).expand(2, 8))
        torch.testing.assert_close(warp(bars(), bend=bend), shifted, atol=1e-3, rtol=0)


class TestCentreCrop:
    def test_enlarges_the_chosen_images_and_no_others(self):
        chosen = torch.arange(8) % 2 == 0
        cropped = distort.centre_crop(bars(), chosen)
        expected = torch.where(chosen, 40 * (28 / CROP_SIZE) ** 2, 40.0)
        torch.testing.assert_close(ink(cropped), expected, atol=0.5, rtol=0)

    def test_cuts_off_the_border(self):
        frame = torch.ones(1, 1, 28, 28)
        frame[..., 3:25, 3:25] = 0
        assert distort.centre_crop(frame, torch.tensor([True])).sum() == 0


class TestThicken:
    def test_by_one_moves_each_edge_by_one_pixel(self):
        wide, narrow = distort.thicken(bars(2), torch.tensor([1.0, -1.0]))
        assert wide.sum() == wide[:, 7:13, 9:21].sum() == 6 * 12
        assert narrow.sum() == narrow[:, 9:11, 11:19].sum() == 2 * 8

    def test_by_more_gives_more_ink_from_thinnest_to_thickest(self):
        assert (ink(distort.thicken(noise(1).expand(21, -1, -1, -1), spread(-1, 1, 21))).diff() > 0).all()

    def test_by_a_fraction_blends(self):
        blended = distort.thicken(bars(2), torch.tensor([0.5, -0.5]))
        torch.testing.assert_close(ink(blended), torch.tensor([(40 + 72) / 2, (40 + 16) / 2]))

    def test_keeps_strokes_at_the_border_of_the_image(self):
        white = torch.ones(2, 1, 28, 28)
        assert torch.equal(distort.thicken(white, torch.tensor([1.0, -1.0])), white)


class TestBlur:
    def test_in_full_is_the_mean_over_3_by_3_pixels(self):
        dot = torch.zeros(1, 1, 28, 28)
        dot[..., 14, 14] = 1
        blurred = distort.blur(dot, torch.ones(1))
        torch.testing.assert_close(blurred[..., 13:16, 13:16], torch.full((1, 1, 3, 3), 1 / 9))
        assert blurred.sum() == pytest.approx(1)

    def test_by_more_flattens_more_and_keeps_the_ink(self):
        blurred = distort.blur(bars(), spread(0, 1))
        torch.testing.assert_close(ink(blurred), torch.full((8,), 40.0))
        assert (blurred.var(dim=(1, 2, 3)).diff() < 0).all()


def test_fading_maps_black_to_paper_white_to_ink_and_keeps_the_order_in_between():
    images = torch.linspace(0, 1, 28 * 28).view(1, 1, 28, 28).expand(2, -1, -1, -1)
    faded = distort.fade(images, ink=torch.tensor([0.5, 0.9]), paper=torch.tensor([0.1, 0.2])).flatten(1)
    torch.testing.assert_close(faded[:, 0], torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(faded[:, -1], torch.tensor([0.5, 0.9]))
    torch.testing.assert_close(faded.diff(), torch.tensor([0.4, 0.7])[:, None].expand(-1, 783) / 783, atol=1e-6, rtol=0)


class TestShade:
    def test_dims_one_side_by_the_amount_and_leaves_the_other(self):
        amounts = torch.tensor([0.6, -0.6])
        white = torch.ones(2, 1, 28, 28)
        across = distort.shade(white, across=amounts, down=torch.zeros(2))[:, 0, 0]
        down = distort.shade(white, across=torch.zeros(2), down=amounts)[:, 0, :, 0]
        for line in (across, down):
            torch.testing.assert_close(line[:, 0], torch.tensor([0.4, 1.0]))
            torch.testing.assert_close(line[:, -1], torch.tensor([1.0, 0.4]))

    def test_leaves_paper_black_and_never_brightens(self):
        shaded = distort.shade(bars(), across=spread(-1, 1), down=spread(1, -1))
        assert shaded[bars() == 0].sum() == 0
        assert (shaded <= bars()).all()
        assert (shaded >= 0).all()


def test_noise_is_added_and_what_leaves_the_range_is_held_at_its_ends():
    images = torch.full((1, 1, 28, 28), 0.5)
    amounts = torch.linspace(-2, 2, 28 * 28).view(1, 1, 28, 28)
    noisy = distort.add_noise(images, amounts)
    assert (noisy.min(), noisy.max()) == (0, 1)
    small = amounts.abs() < 0.5
    torch.testing.assert_close(noisy[small], (images + amounts)[small])


class TestCutOut:
    def test_blackens_a_square_of_that_side_at_that_place_and_nothing_else(self):
        white = torch.ones(2, 1, 28, 28)
        cut = distort.cut_out(
            white, row=torch.tensor([5.0, 20.0]), column=torch.tensor([9.0, 20.0]), side=torch.tensor([3.0, 7.0])
        )
        assert (cut[0, 0] == 0).nonzero().aminmax(dim=0).min.tolist() == [4, 8]
        assert (cut[0, 0] == 0).nonzero().aminmax(dim=0).max.tolist() == [6, 10]
        assert ink(1 - cut).tolist() == [9, 49]

    def test_at_a_corner_blackens_what_lies_inside(self):
        cut = distort.cut_out(
            torch.ones(1, 1, 28, 28), row=torch.zeros(1), column=torch.zeros(1), side=torch.tensor([5.0])
        )
        assert ink(1 - cut).item() == 9
