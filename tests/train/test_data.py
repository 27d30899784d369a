import os

import pytest
import torch

from train.data import MNIST_MD5, ROOT_VARIABLE, Split, hold_out, load
from train.errors import DataError


@pytest.fixture
def no_network(monkeypatch):
    """Downloads go to a port of this machine that nobody listens to."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])


def fake_mnist(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_MD5:
        (raw / name).write_bytes(b"not MNIST")
    return raw


class TestSplit:
    def test_pixels_of_another_type_or_shape_are_refused(self):
        with pytest.raises(DataError, match=r"pixels are float32 \[2, 1, 28, 28\], expected uint8"):
            Split(torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64))
        with pytest.raises(DataError, match=r"pixels are uint8 \[3, 1, 28, 28\], expected uint8 \[2, 1, 28, 28\]"):
            Split(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))

    def test_labels_of_another_type_are_refused(self):
        with pytest.raises(DataError, match=r"labels are uint8 \[2\], expected int64 \[N\]"):
            Split(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8))


class TestHoldOut:
    def test_every_image_is_in_exactly_one_part(self):
        split = Split(torch.zeros(100, 1, 28, 28, dtype=torch.uint8), torch.arange(100))
        train, validation = hold_out(split, 0.1)
        assert len(validation) == 10
        assert sorted(torch.cat((train.labels, validation.labels)).tolist()) == list(range(100))

    def test_it_is_the_same_division_always_and_a_random_one(self):
        split = Split(torch.zeros(100, 1, 28, 28, dtype=torch.uint8), torch.arange(100))
        first, again = (hold_out(split, 0.1)[1].labels.tolist() for _ in range(2))
        assert first == again
        assert first != sorted(first)
        # More held out is more of the same: what one recipe has not learnt, another has not either, as far as it goes.
        assert hold_out(split, 0.2)[1].labels.tolist()[:10] == first

    def test_images_keep_their_labels(self, dataset):
        values = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 1, 28, 28)
        for part in hold_out(Split(values, torch.arange(50)), 0.2):
            assert torch.equal(part.pixels[:, 0, 0, 0].long(), part.labels)


class TestDigits8x8:
    def test_is_split_with_all_digits_in_both_parts_and_always_alike(self):
        first, again = load("digits8x8"), load("digits8x8")
        assert (len(first.train), len(first.test)) == (1437, 360)
        assert first.test.labels.bincount().min() >= 34
        assert first.sha256 == again.sha256
        assert len(first.sha256) == 64

    def test_digits_are_white_on_black_in_the_central_20_by_20_pixels(self):
        pixels = load("digits8x8").test.pixels
        border = pixels.clone()
        border[..., 4:24, 4:24] = 0
        assert border.sum() == 0
        assert pixels.max() == 255
        assert 10 < pixels.float().mean() < 80

    def test_says_that_it_is_not_mnist(self, caplog):
        load("digits8x8")
        assert "digits8x8 is not MNIST" in caplog.text
        assert "do not compare" in caplog.text


class TestMnist:
    def test_without_files_or_network_the_error_says_where_and_what_else(self, tmp_path, no_network):
        with pytest.raises(DataError) as error:
            load("mnist", tmp_path)
        for part in (str(tmp_path / "MNIST" / "raw"), "--data-root", ROOT_VARIABLE, "--data digits8x8"):
            assert part in str(error.value)

    def test_a_root_that_cannot_be_made_gives_the_same_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="could not be downloaded"):
            load("mnist", tmp_path / "file" / "root")

    def test_a_foreign_file_is_named_with_both_digests_and_what_to_do(self, tmp_path):
        raw = fake_mnist(tmp_path)
        with pytest.raises(DataError) as error:
            load("mnist", tmp_path)
        name, expected = next(iter(MNIST_MD5.items()))
        for part in (str(raw / name), "9 bytes", expected, "Delete it"):
            assert part in str(error.value)

    def test_the_root_is_the_environment_variable_unless_given(self, tmp_path, monkeypatch):
        fake_mnist(tmp_path / "variable")
        fake_mnist(tmp_path / "argument")
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "variable"))
        with pytest.raises(DataError, match="variable"):
            load("mnist")
        with pytest.raises(DataError, match="argument"):
            load("mnist", tmp_path / "argument")

    def test_the_root_is_data_if_nothing_is_given(self, tmp_path, monkeypatch):
        fake_mnist(tmp_path / "data")
        monkeypatch.delenv(ROOT_VARIABLE, raising=False)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match=r"^data/MNIST/raw"):
            load("mnist")

    @pytest.mark.skipif(ROOT_VARIABLE not in os.environ, reason=f"{ROOT_VARIABLE} is not set")
    def test_the_original_files_are_read_whole(self):
        mnist = load("mnist")
        assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
        assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert mnist.train.pixels.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="'mnits': did you mean 'mnist'"):
        load("mnits")
