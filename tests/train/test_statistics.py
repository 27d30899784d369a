import os

import numpy as np
import pytest
import torch

from train import statistics
from train.data import ROOT_VARIABLE, Dataset, Split, load
from train.errors import DataError
from train.models import MEAN, STD
from train.statistics import (
    NEAREST,
    Place,
    class_counts,
    class_images,
    closest_pairs,
    doubtful,
    exact_duplicates,
    find_neighbours,
    outlying,
    pixel_values,
    placement,
    samples,
)


def blank(count):
    return torch.zeros(count, 1, 28, 28, dtype=torch.uint8)


def copy(split):
    return Split(split.pixels.clone(), split.labels.clone())


@pytest.fixture
def train(dataset):
    """A copy, to plant something in."""
    return copy(dataset.train)


class TestClassCounts:
    def test_count_absent_digits_too(self):
        split = Split(blank(5), torch.tensor([3, 3, 0, 3, 8]))
        assert class_counts(split).tolist() == [1, 0, 0, 3, 0, 0, 0, 0, 1, 0]


class TestPixelValues:
    def test_are_those_of_the_definition(self):
        pixels = blank(1)
        pixels[0, 0, 0, :7] = 255
        pixels[0, 0, 1, :2] = 51
        values = pixel_values(Split(pixels, torch.tensor([0])))
        scaled = pixels.double() / 255
        assert (values.histogram[0], values.histogram[51], values.histogram[255]) == (775, 2, 7)
        assert values.zero_share == 775 / 784
        assert values.mean == pytest.approx(scaled.mean().item())
        assert values.standard_deviation == pytest.approx(scaled.std(correction=0).item())

    @pytest.mark.skipif(ROOT_VARIABLE not in os.environ, reason=f"{ROOT_VARIABLE} is not set")
    def test_of_mnist_are_those_that_the_networks_expect(self):
        values = pixel_values(load("mnist").train)
        assert round(values.mean, 4) == MEAN
        assert round(values.standard_deviation, 4) == STD

    def test_all_equal_deviate_by_nothing(self):
        values = pixel_values(Split(blank(1) + 77, torch.tensor([0])))
        assert values.standard_deviation == pytest.approx(0, abs=1e-7)


class TestPlacement:
    def test_is_the_box_around_the_ink_and_its_centre_of_mass(self):
        pixels = blank(2)
        pixels[0, 0, 4:24, 10] = 9  # a stroke 20 high
        pixels[1, 0, 0, 0] = 100
        pixels[1, 0, 4, 27] = 50  # half the ink, elsewhere
        place = placement(Split(pixels, torch.tensor([1, 7])))
        assert place.heights.tolist() == [20, 5]
        assert place.widths.tolist() == [1, 28]
        assert place.rows.tolist() == pytest.approx([13.5, 4 / 3])
        assert place.columns.tolist() == pytest.approx([10, 9])

    def test_leaves_out_images_without_ink(self):
        pixels = blank(3)
        pixels[1, 0, 5, 6] = 1
        place = placement(Split(pixels, torch.tensor([1, 2, 3])))
        assert (place.rows.tolist(), place.columns.tolist()) == ([5], [6])


class TestClassImages:
    def test_are_mean_and_deviation_of_each_class(self):
        pixels = blank(20)
        labels = torch.arange(20) % 10
        pixels[3, 0, 2, 2], pixels[13, 0, 2, 2] = 255, 51  # 1 and 0.2
        images = class_images(Split(pixels, labels))
        assert images.mean[3, 2, 2] == pytest.approx(0.6)
        assert images.standard_deviation[3, 2, 2] == pytest.approx(0.4)
        assert np.count_nonzero(images.mean) == 1

    def test_need_an_image_of_each_digit(self):
        with pytest.raises(DataError, match="have 2, 0, 0, 0, 0, 0, 0, 0, 0, 0 images; each needs at least 1"):
            class_images(Split(blank(2), torch.tensor([0, 0])))


class TestSamples:
    def test_are_different_images_of_each_digit_that_the_seed_decides(self, train):
        drawn = samples(train, 10, seed=1)
        assert [set(train.labels[row].tolist()) for row in drawn] == [{digit} for digit in range(10)]
        assert all(len(set(row)) == 10 for row in drawn.tolist())
        assert np.array_equal(drawn, samples(train, 10, seed=1))
        assert not np.array_equal(drawn, samples(train, 10, seed=2))

    def test_cannot_be_more_than_there_are(self, train):
        with pytest.raises(DataError, match="each needs at least 100"):
            samples(train, 100, seed=1)


class TestExactDuplicates:
    def test_where_there_are_none(self, dataset):
        assert exact_duplicates(dataset) == []

    def test_are_found_within_and_across_the_splits(self, dataset):
        train, test = copy(dataset.train), copy(dataset.test)
        train.pixels[7] = train.pixels[3]
        test.pixels[0] = train.pixels[3]
        test.pixels[9] = test.pixels[5]
        found = exact_duplicates(Dataset(name="planted", train=train, test=test, sha256="0" * 64))
        assert found == [
            [
                Place(split="training", index=3, label=int(train.labels[3])),
                Place(split="training", index=7, label=int(train.labels[7])),
                Place(split="test", index=0, label=int(test.labels[0])),
            ],
            [
                Place(split="test", index=5, label=int(test.labels[5])),
                Place(split="test", index=9, label=int(test.labels[9])),
            ],
        ]


class TestNeighbours:
    @pytest.mark.parametrize("block", [1, 7, 1000])
    def test_are_those_of_every_class_by_direct_computation(self, dataset, monkeypatch, block):
        monkeypatch.setattr(statistics, "_BLOCK", block)
        train = dataset.train
        for split in (dataset.test, train):
            neighbours = find_neighbours(split, train)
            distances = torch.cdist(split.pixels.flatten(1).double() / 255, train.pixels.flatten(1).double() / 255)
            if split is train:
                distances.fill_diagonal_(torch.inf)
            for digit in range(10):
                of_digit = distances.clone()
                of_digit[:, train.labels != digit] = torch.inf
                nearest = of_digit.topk(NEAREST, largest=False)
                np.testing.assert_allclose(neighbours.distances[:, digit], nearest.values, rtol=1e-4)
                # Two that are equally far, as far as float32 can tell, may change places.
                indices = torch.from_numpy(neighbours.indices[:, digit])
                np.testing.assert_allclose(of_digit.gather(1, indices), nearest.values, rtol=1e-4)
            assert neighbours.nearest_label.tolist() == train.labels[distances.argmin(dim=1)].tolist()
            np.testing.assert_allclose(neighbours.nearest_distance, distances.min(dim=1).values, rtol=1e-4)

    def test_agree_where_classes_are_apart(self, dataset, train):
        assert find_neighbours(dataset.test, train).agreement == 1
        train.labels[:] = train.labels.roll(1)
        assert find_neighbours(dataset.test, train).agreement < 0.5

    def test_need_enough_images_of_each_class(self, dataset, train):
        with pytest.raises(DataError, match="each needs at least 1"):
            find_neighbours(dataset.test[:3], train)
        few = train[torch.cat([torch.nonzero(train.labels == digit)[:NEAREST, 0] for digit in range(10)])]
        with pytest.raises(DataError, match="each needs at least 4"):
            find_neighbours(few, few)


class TestClosestPairs:
    def test_within_a_split_a_planted_near_duplicate_comes_after_a_planted_duplicate(self, train):
        train.pixels[7], train.labels[7] = train.pixels[3], train.labels[3]
        train.pixels[100] = train.pixels[50]
        train.pixels[50, 0, 14, 14], train.pixels[100, 0, 14, 14] = 100, 151  # 0.2 apart
        pairs = closest_pairs(find_neighbours(train, train), train, train, 2)
        assert [(pair.index, pair.other) for pair in pairs[:2]] == [(3, 7), (50, 100)]
        assert [pair.distance for pair in pairs[:2]] == [0, pytest.approx(0.2)]
        assert (pairs[1].label, pairs[1].other_label) == (int(train.labels[50]), int(train.labels[100]))

    def test_across_splits_are_found_whatever_their_labels(self, dataset, train):
        train.pixels[42] = dataset.test.pixels[6]
        train.labels[42] = (dataset.test.labels[6] + 1) % 10
        pair = closest_pairs(find_neighbours(dataset.test, train), dataset.test, train, 1)[0]
        assert (pair.index, pair.other, pair.distance) == (6, 42, 0)
        assert pair.other_label == (pair.label + 1) % 10

    def test_are_so_many_of_each_digit_and_none_comes_twice(self, train):
        pairs = closest_pairs(find_neighbours(train, train), train, train, 5)
        assert np.bincount([pair.label for pair in pairs]).tolist() == [5] * 10
        assert len({frozenset((pair.index, pair.other)) for pair in pairs}) == 50
        distances = [pair.distance for pair in pairs]
        assert distances == sorted(distances)


class TestOddities:
    def test_a_planted_mislabelled_image_is_the_most_doubtful(self, train):
        shown = int(train.labels[30])
        train.labels[30] = (shown + 1) % 10
        odd = doubtful(find_neighbours(train, train), 3)[0]
        assert (odd.index, odd.label, odd.other_label) == (30, (shown + 1) % 10, shown)
        assert odd.distance > odd.other_distance
        assert train.labels[odd.nearest] == odd.label
        assert train.labels[odd.other_nearest] == shown

    def test_a_planted_mislabelled_test_image_is_too(self, dataset, train):
        test = copy(dataset.test)
        test.labels[12] = (test.labels[12] + 5) % 10
        assert doubtful(find_neighbours(test, train), 1)[0].index == 12

    def test_an_image_like_no_other_is_the_most_outlying(self, train):
        train.pixels[77] = 255 * torch.randint(0, 2, (1, 28, 28), generator=torch.Generator().manual_seed(5))
        odd = outlying(find_neighbours(train, train), 2)
        assert odd[0].index == 77
        assert odd[0].distance > odd[1].distance

    def test_a_duplicate_under_another_label_does_not_divide_by_zero(self, train):
        digit = int(train.labels[0])
        others = torch.nonzero(train.labels == (digit + 1) % 10)[:NEAREST, 0]
        train.pixels[others] = train.pixels[0].clone()
        assert doubtful(find_neighbours(train, train), 1)[0].index == 0
