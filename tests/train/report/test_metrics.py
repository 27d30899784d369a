import math

import numpy as np
import pytest

from train.report.metrics import Answer, MacroReport, Proportion, answers, calibration, evaluate, proportion


def make_probabilities(digits, confidence=0.9):
    """The probability `confidence` for each digit, the rest for the others: [N, 10]."""
    rest = (1 - confidence) / 9
    return np.where(np.eye(10, dtype=bool)[digits], confidence, rest).astype(np.float32)


LABELS = np.array([*range(10), 0, 0])
PREDICTIONS = np.array([*range(9), 4, 0, 1])  # the 9 is taken for a 4, the last 0 for a 1


@pytest.fixture
def evaluation():
    probabilities = make_probabilities(PREDICTIONS)
    return evaluate(probabilities, LABELS, {"upside_down": make_probabilities(LABELS), "torn": probabilities})


class TestProportions:
    def test_have_wilsons_interval(self):
        """Of 81 in 263: Newcombe, Statistics in Medicine 1998, table I, method 3."""
        found = proportion(81, 263)
        assert found.value == 81 / 263
        assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)

    def test_of_none_and_all_stay_between_zero_and_one(self):
        assert proportion(0, 20) == Proportion(value=0, low=0, high=pytest.approx(0.1611, abs=1e-4))
        assert proportion(20, 20) == Proportion(value=1, low=pytest.approx(0.8389, abs=1e-4), high=1)


class TestAnEvaluation:
    def test_counts_images_and_errors(self, evaluation):
        assert (evaluation.images, evaluation.errors) == (12, 2)
        assert evaluation.accuracy == proportion(10, 12)

    def test_has_the_mean_cross_entropy(self, evaluation):
        wrong = 0.1 / 9
        assert evaluation.loss == pytest.approx(-(10 * math.log(0.9) + 2 * math.log(wrong)) / 12)

    def test_reports_each_digit(self, evaluation):
        zero, one, *_, four = evaluation.digits[:5]
        nine = evaluation.digits[9]
        assert [digit.digit for digit in evaluation.digits] == list(range(10))
        assert (zero.images, zero.precision, zero.recall) == (3, 1, proportion(2, 3))
        assert zero.f1 == pytest.approx(0.8)
        assert (one.images, one.precision, one.recall) == (1, 0.5, proportion(1, 1))
        assert four.precision == 0.5
        assert (nine.images, nine.precision, nine.recall.value, nine.f1) == (1, 0, 0, 0)

    def test_has_the_means_over_the_digits(self, evaluation):
        """Precision: seven times 1, twice 1/2, once 0; recall: eight times 1, once 2/3, once 0."""
        f1 = (6 * 1 + 0.8 + 2 * 2 / 3) / 10
        assert evaluation.macro == MacroReport(
            precision=pytest.approx(0.8), recall=pytest.approx((8 + 2 / 3) / 10), f1=pytest.approx(f1)
        )

    def test_has_a_confusion_matrix_with_the_digit_shown_as_row(self, evaluation):
        matrix = np.array(evaluation.confusion)
        assert matrix.sum() == 12
        assert (matrix[9, 4], matrix[4, 9], matrix[0, 1], matrix[0, 0]) == (1, 0, 1, 2)

    def test_lists_the_mistakes(self, evaluation):
        confidence = pytest.approx(0.9)
        assert evaluation.mistakes == (
            Answer(index=9, label=9, prediction=4, probability=confidence),
            Answer(index=11, label=0, prediction=1, probability=confidence),
        )

    def test_has_the_accuracy_of_each_corruption_and_their_mean(self, evaluation):
        assert evaluation.robustness.accuracies == {"upside_down": proportion(12, 12), "torn": proportion(10, 12)}
        assert evaluation.robustness.mean_accuracy == pytest.approx((1 + 10 / 12) / 2)

    def test_needs_every_digit(self):
        with pytest.raises(ValueError, match=r"no image shows \[3\]; expected at least one image of each digit"):
            evaluate(make_probabilities(PREDICTIONS), np.where(LABELS == 3, 4, LABELS), {})

    def test_needs_probabilities_of_every_image(self):
        whole = make_probabilities(PREDICTIONS)
        with pytest.raises(ValueError, match=r"torn is \(11, 10\), expected \(12, 10\) for 12 labels"):
            evaluate(whole, LABELS, {"torn": whole[1:]})


class TestCalibration:
    def test_is_perfect_where_confidence_is_accuracy(self):
        found = calibration(make_probabilities(np.zeros(10, int), 0.7), np.array([0] * 7 + [1] * 3))
        assert found.expected_error == pytest.approx(0, abs=1e-6)
        [filled] = [each for each in found.bins if each.images]
        assert (filled.images, filled.confidence, filled.accuracy) == (10, pytest.approx(0.7), pytest.approx(0.7))
        assert filled.low <= 0.7 < filled.high

    def test_has_fifteen_bins_of_equal_width_and_no_means_for_those_without_images(self):
        bins = calibration(make_probabilities(np.array([0]), 0.5), np.array([0])).bins
        assert [round(15 * each.low, 6) for each in bins] == list(range(15))
        assert [round(15 * each.high, 6) for each in bins] == list(range(1, 16))
        assert (bins[0].images, bins[0].confidence, bins[0].accuracy) == (0, None, None)

    def test_error_is_the_mean_distance_over_the_images(self):
        """Three images with a confidence of 0.5, one of them right; one with 0.9, wrong."""
        probabilities = np.concatenate((make_probabilities([0, 0, 0], 0.5), make_probabilities([0], 0.9)))
        expected = (3 * abs(1 / 3 - 0.5) + 0.9) / 4
        found = calibration(probabilities, np.array([0, 1, 2, 3]))
        assert found.expected_error == pytest.approx(expected)

    def test_puts_a_confidence_of_one_into_the_last_bin(self):
        """0.98 and 1, one of them right: together a gap of 0.49, not the mean of 0.98 and 0."""
        probabilities = np.concatenate((make_probabilities([0], 0.98), make_probabilities([1], 1)))
        found = calibration(probabilities, np.array([5, 1]))
        assert found.bins[-1].images == 2
        assert found.expected_error == pytest.approx(0.49)

    def test_error_is_the_one_that_the_bins_show(self):
        numbers = np.random.default_rng(0)
        probabilities = numbers.dirichlet(np.full(10, 0.1), 500).astype(np.float32)
        found = calibration(probabilities, numbers.integers(10, size=500))
        filled = [each for each in found.bins if each.images]
        assert sum(each.images for each in filled) == 500
        shown = sum(each.images * abs(each.accuracy - each.confidence) for each in filled) / 500
        assert found.expected_error == pytest.approx(shown, abs=1e-6)


def test_answers_are_those_of_the_images_asked_for():
    found = answers(make_probabilities(PREDICTIONS), LABELS, [9, 3])
    assert [(answer.index, answer.label, answer.prediction) for answer in found] == [(9, 9, 4), (3, 3, 3)]
