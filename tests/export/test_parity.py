"""The parity check: what it measures, what it tolerates, and what it says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from export.parity import batch_difference, judge, judge_batches, judge_range, lead, measure
from export.tolerances import DEFAULTS

FP32 = DEFAULTS["fp32"]
EXACT = dataclasses.replace(FP32, max_difference=0, max_accuracy_drop=0, max_flip_margin=0, max_batch_difference=0)
LOOSE = dataclasses.replace(FP32, max_difference=1, max_accuracy_drop=1, max_flip_margin=1, max_batch_difference=1)


def sure(*digits: int) -> np.ndarray:
    """One row per digit that is certain of it."""
    return np.eye(10, dtype=np.float32)[list(digits)]


def between(first: int, second: int, lead: float) -> np.ndarray:
    """One row whose best digit leads its second best by `lead`; the other eight have no probability."""
    row = np.zeros((1, 10), np.float32)
    row[0, first], row[0, second] = (1 + lead) / 2, (1 - lead) / 2
    return row


def findings(reference, candidate, labels, **tolerances: float) -> list[str]:
    return judge(measure(reference, candidate, np.array(labels)), dataclasses.replace(FP32, **tolerances))


def test_equal_probabilities_pass_even_where_nothing_is_tolerated():
    reference = sure(3, 1, 4)
    comparison = measure(reference, reference.copy(), np.array([3, 1, 5]))
    assert judge(comparison, EXACT) == []
    assert (comparison.agreement, comparison.max_difference, comparison.mean_difference) == (1, 0, 0)
    assert comparison.reference_accuracy == comparison.candidate_accuracy == pytest.approx(2 / 3)
    assert (comparison.images, comparison.not_finite, comparison.flips) == (3, 0, [])


# Each case differs from the reference in one way: reference, candidate, label, tolerances, what is found.
CASES = {
    "a difference within the tolerance": (between(3, 8, 0.5), between(3, 8, 0.499), 3, {}, []),
    "a difference beyond the tolerance": (
        between(3, 8, 0.5),
        between(3, 8, 0.4),
        3,
        {},
        ["a probability differs by 0.05, at most 0.001 is tolerated"],
    ),
    "the same difference, tolerated": (between(3, 8, 0.5), between(3, 8, 0.4), 3, {"max_difference": 0.06}, []),
    "another digit where the reference was undecided": (between(3, 8, 5e-4), between(8, 3, 5e-4), 8, {}, []),
    "another digit where the reference was decided": (
        between(3, 8, 0.01),
        between(8, 3, 0.01),
        8,
        {"max_difference": 1},
        [
            "1 images change their digit although the reference was decided "
            "(lead up to 0.01, tolerated up to 0.001): image 0 (3 became 8, label 8)"
        ],
    ),
    "the same digit, tolerated": (
        between(3, 8, 0.01),
        between(8, 3, 0.01),
        8,
        {"max_difference": 1, "max_flip_margin": 0.02},
        [],
    ),
    "lost accuracy": (
        between(3, 8, 5e-4),
        between(8, 3, 5e-4),
        3,
        {"max_accuracy_drop": 0},
        [
            "accuracy falls by 100.0000% (95% interval -51.0101% to 117.6768%), from 100.00% to 0.00%; "
            "at most 0.0000% is tolerated"
        ],
    ),
    "the same accuracy, tolerated": (between(3, 8, 5e-4), between(8, 3, 5e-4), 3, {"max_accuracy_drop": 1}, []),
}


@pytest.mark.parametrize(
    ("reference", "candidate", "label", "tolerances", "expected"), CASES.values(), ids=CASES.keys()
)
def test_each_tolerance_is_held_and_printed(reference, candidate, label, tolerances, expected):
    assert findings(reference, candidate, [label], **tolerances) == expected


@pytest.mark.parametrize(
    ("images", "lost", "passes"),
    [(360, 0, True), (360, 1, True), (360, 2, False), (10_000, 5, True), (10_000, 6, False)],
)
def test_the_accuracy_that_may_be_lost_is_rounded_up_to_whole_images(images, lost, passes):
    reference = np.repeat(between(3, 8, 5e-4), images, axis=0)
    candidate = reference.copy()
    candidate[:lost] = between(8, 3, 5e-4)
    found = findings(reference, candidate, np.full(images, 3), max_accuracy_drop=5e-4)
    assert [line.split(" by ")[0] for line in found] == ([] if passes else ["accuracy falls"])


def test_every_finding_is_reported_not_only_the_first():
    found = findings(sure(3, 1), np.full((2, 10), np.nan, np.float32), [3, 1])
    assert [line.split()[1] for line in found] == ["images", "probability", "falls", "images"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_passes_whatever_is_tolerated(value):
    candidate = sure(3, 1)
    candidate[1, 7] = value
    comparison = measure(sure(3, 1), candidate, np.array([3, 1]))
    assert judge(comparison, LOOSE) == ["1 images have probabilities that are NaN or infinite; none may"]
    assert comparison.max_difference == 1


def test_a_row_of_nothing_but_nan_does_not_count_as_right():
    # argmax of such a row is 0: it must not hide behind images that show a zero.
    comparison = measure(sure(3), np.full((1, 10), np.nan, np.float32), np.array([3]))
    assert comparison.candidate_accuracy == 0


def test_a_row_of_nothing_but_nan_does_not_count_as_a_zero():
    comparison = measure(sure(0), np.full((1, 10), np.nan, np.float32), np.array([0]))
    assert comparison.candidate_accuracy == 0
    assert comparison.agreement == 0


def test_better_accuracy_than_the_references_is_no_finding():
    assert findings(between(3, 8, 5e-4), between(8, 3, 5e-4), [8]) == []


def test_many_changed_digits_are_counted_and_the_first_ten_listed():
    [found] = findings(sure(*[3] * 12), sure(*[8] * 12), [8] * 12, max_difference=1)
    assert found.startswith("12 images change their digit")
    assert "image 9 (3 became 8, label 8), and 2 more" in found
    assert "image 10" not in found


@pytest.mark.parametrize(
    ("reference", "candidate", "labels"),
    [
        ((3, 10), (2, 10), (3,)),
        ((3, 10), (3, 9), (3,)),
        ((3, 9), (3, 9), (3,)),
        ((3, 10), (3, 10), (2,)),
        ((10,), (10,), (1,)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused_with_all_three(reference, candidate, labels):
    with pytest.raises(ValueError, match=r"expected \[N, 10\], \[N, 10\] and \[N\]") as caught:
        measure(np.zeros(reference, np.float32), np.zeros(candidate, np.float32), np.zeros(labels, np.int64))
    for shape in (reference, candidate, labels):
        assert str(shape) in str(caught.value)


def test_no_images_at_all_are_refused():
    nothing = np.zeros((0, 10), np.float32)
    with pytest.raises(ValueError, match="at least one image"), np.errstate(all="ignore"):
        measure(nothing, nothing, np.zeros(0, np.int64))


probabilities = arrays.arrays(np.float32, (4, 10), elements=st.floats(0, 1, width=32))
labels = arrays.arrays(np.int64, (4,), elements=st.integers(0, 9))


@settings(deadline=None, max_examples=80)
@given(probabilities, probabilities, labels)
def test_what_is_measured_is_what_a_plain_loop_counts(reference, candidate, labels):
    comparison = measure(reference, candidate, labels)
    digits = [(row.argmax(), other.argmax()) for row, other in zip(reference, candidate, strict=True)]
    assert [flip.image for flip in comparison.flips] == [i for i, (ours, theirs) in enumerate(digits) if ours != theirs]
    assert comparison.agreement == 1 - len(comparison.flips) / 4
    assert (
        comparison.reference_accuracy == sum(ours == label for (ours, _), label in zip(digits, labels, strict=True)) / 4
    )
    assert comparison.max_difference == max(abs(reference - candidate).ravel())
    assert all(flip.margin >= 0 for flip in comparison.flips)


@settings(deadline=None, max_examples=80)
@given(probabilities, probabilities, labels)
def test_the_measured_values_taken_as_tolerances_pass(reference, candidate, labels):
    comparison = measure(reference, candidate, labels)
    just_enough = dataclasses.replace(
        FP32,
        max_difference=comparison.max_difference,
        max_accuracy_drop=comparison.drop.value,
        max_flip_margin=max((flip.margin for flip in comparison.flips), default=0.0),
    )
    assert judge(comparison, just_enough) == []


def test_a_reference_that_is_no_number_never_passes():
    reference = sure(3)
    reference[0, 0] = np.nan
    comparison = measure(reference, sure(3), np.array([3]))
    assert judge(comparison, LOOSE)
    assert judge(measure(reference, reference, np.array([3])), FP32)


def test_the_drop_counts_flips_that_lose_against_flips_that_win():
    # Two lost, one won, one from wrong to wrong.
    comparison = measure(sure(3, 1, 4, 1, 5), sure(8, 7, 9, 2, 5), np.array([3, 1, 9, 5, 5]))
    assert comparison.drop.value == pytest.approx(1 / 5)
    assert comparison.drop.low < 1 / 7 < comparison.drop.high
    assert comparison.drop.p_value == 1  # two to one says nothing


def test_the_drop_of_many_flips_one_way_is_certain():
    # McNemar's exact test: ten flips, all lost, is 2 in 1024.
    comparison = measure(sure(*[3] * 100), sure(*[8] * 10, *[3] * 90), np.full(100, 3))
    assert comparison.drop.p_value == pytest.approx(2 / 1024)
    assert comparison.drop.low > 0


def test_the_interval_without_a_flip_shrinks_with_the_number_of_images():
    few, many = (measure(sure(*[3] * n), sure(*[3] * n), np.full(n, 3)).drop for n in (100, 10_000))
    assert (few.value, few.p_value) == (0, 1)
    assert few.high == pytest.approx(-few.low)
    assert 0 < many.high < few.high / 50
    assert many.high == pytest.approx(1.96 / 10_002, rel=1e-3)


def test_the_lead_is_that_of_the_best_digit_over_the_second_best():
    np.testing.assert_allclose(lead(np.concatenate([between(3, 8, 0.25), sure(1)])), [0.25, 1])


def test_the_difference_between_batches_is_the_largest_of_any_image_at_any_place():
    alone = sure(3, 1, 4)
    moved = np.array([2, 0, 1])
    answers = alone[moved].copy()
    assert batch_difference([(np.arange(3), alone), (moved, answers)], alone) == 0
    answers[1, 3] -= 0.25
    found = batch_difference([(np.arange(3), alone), (moved, answers)], alone)
    assert found == 0.25
    assert judge_batches(found, LOOSE) == []
    assert judge_batches(found, FP32) == [
        "the same image gets probabilities that differ by 0.25 in different batches, at most 0.0001 is tolerated"
    ]
    answers[0] = np.nan
    assert batch_difference([(moved, answers)], alone) == 1


def test_a_layer_too_near_the_largest_number_of_fp16_is_named():
    peaks = {"0 Conv2d": 12.5, "3 Conv2d": 20000.0, "6 Linear": 16376.0}
    [found] = judge_range(peaks, 0, 65504.0, FP32)
    assert found == (
        "1 layers give values up to 2e+04 (3 Conv2d), too near 65504, FP16's largest number: "
        "at most 1.638e+04, a 4th of that, is tolerated"
    )
    assert judge_range({"0 Conv2d": 16376.0}, 0, 65504.0, FP32) == []


@pytest.mark.parametrize("peak", [np.inf, np.nan])
def test_a_layer_whose_values_are_no_numbers_is_refused(peak):
    [found] = judge_range({"0 Conv2d": 1.0, "3 Conv2d": peak}, 0, 65504.0, FP32)
    assert "(3 Conv2d)" in found


def test_weights_that_fp16_cannot_hold_are_counted():
    assert judge_range({"0 Conv2d": 1.0}, 2, 65504.0, FP32) == [
        "2 weights are beyond 65504, FP16's largest number; none may be"
    ]
