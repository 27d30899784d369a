import pytest
import torch

from train import data
from train.data import Split
from train.transforms.corrupt import CORRUPTIONS, corrupted

# Mean ink against that of the clean images, and mean change of a pixel, on the test images of digits8x8. The order
# counts: a corruption's place decides its random numbers.
FIGURES = {
    "thin": (0.691, 12.26),
    "thick": (1.555, 22.01),
    "faint": (0.897, 33.30),
    "shaded": (0.300, 27.77),
    "slanted": (1.000, 20.66),
    "rotated": (1.000, 19.96),
    "shifted": (1.000, 35.61),
    "small": (0.563, 22.17),
    "large": (1.440, 23.35),
    "wavy": (0.989, 10.15),
    "blurred": (1.000, 9.31),
    "noisy": (1.350, 25.37),
}


@pytest.fixture(scope="module")
def clean() -> Split:
    return data.load("digits8x8").test


def test_the_corruptions_and_their_order_are_fixed():
    assert list(CORRUPTIONS) == list(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
class TestEachCorruption:
    def test_is_the_same_at_every_call_whatever_was_drawn_before(self, clean, name):
        first = corrupted(clean, name)
        torch.rand(3)
        state = torch.get_rng_state()
        assert torch.equal(corrupted(clean, name).pixels, first.pixels)
        assert torch.equal(torch.get_rng_state(), state)

    def test_changes_every_image_and_no_label(self, clean, name):
        before = clean.pixels.clone()
        spoilt = corrupted(clean, name)
        assert (spoilt.pixels != clean.pixels).flatten(1).any(dim=1).all()
        assert torch.equal(spoilt.labels, clean.labels)
        assert torch.equal(clean.pixels, before)

    def test_gives_bytes(self, clean, name):
        assert corrupted(clean, name).pixels.dtype == torch.uint8

    def test_is_as_strong_as_ever(self, clean, name):
        before, after = clean.pixels.float(), corrupted(clean, name).pixels.float()
        ink, change = FIGURES[name]
        assert (after.mean() / before.mean()).item() == pytest.approx(ink, rel=0.02)
        assert (after - before).abs().mean().item() == pytest.approx(change, rel=0.03)


def test_corruptions_do_not_share_their_random_directions(clean):
    """Slanted to the left need not be rotated to the left."""
    ways = []
    for name in ("slanted", "rotated", "shaded"):
        halves = corrupted(clean, name).pixels.float() - clean.pixels.float()
        ways.append(halves[:, :, :14, :14].mean(dim=(1, 2, 3)) > halves[:, :, :14, 14:].mean(dim=(1, 2, 3)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert 0.2 < (ways[first] == ways[second]).float().mean() < 0.8
