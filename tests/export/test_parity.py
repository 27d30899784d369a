"""The parity check: what it measures, what it tolerates, and what it says."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from export.parity import Tolerances, describe, judge, measure, to_json

EXACT = Tolerances(max_difference=0, max_accuracy_drop=0, max_flip_margin=0)
LOOSE = Tolerances(max_difference=1, max_accuracy_drop=1, max_flip_margin=1)


def sure(*digits: int) -> np.ndarray:
    """One row per digit that is certain of it."""
    return np.eye(10, dtype=np.float32)[list(digits)]


def between(first: int, second: int, lead: float) -> np.ndarray:
    """One row whose best digit leads its second best by `lead`; the other eight have no probability."""
    row = np.zeros((1, 10), np.float32)
    row[0, first], row[0, second] = (1 + lead) / 2, (1 - lead) / 2
    return row


def findings(reference, candidate, labels, **tolerances: float) -> list[str]:
    return judge(measure(reference, candidate, np.array(labels)), Tolerances(**tolerances))


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
        {},
        ["accuracy falls by 100.0000%, from 100.00% to 0.00%; at most 0.0500% is tolerated"],
    ),
    "the same accuracy, tolerated": (between(3, 8, 5e-4), between(8, 3, 5e-4), 3, {"max_accuracy_drop": 1}, []),
}


@pytest.mark.parametrize(
    ("reference", "candidate", "label", "tolerances", "expected"), CASES.values(), ids=CASES.keys()
)
def test_each_tolerance_is_held_and_printed(reference, candidate, label, tolerances, expected):
    assert findings(reference, candidate, [label], **tolerances) == expected


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


def test_the_report_is_json_and_holds_measurements_and_tolerances():
    comparison = measure(sure(3, 1), sure(8, 1), np.array([3, 1]))
    document = json.loads(json.dumps(to_json(comparison, Tolerances()), allow_nan=False))
    assert document["comparison"]["flips"] == [{"image": 0, "label": 3, "reference": 3, "candidate": 8, "margin": 1.0}]
    assert document["tolerances"] == {"max_difference": 1e-3, "max_accuracy_drop": 5e-4, "max_flip_margin": 1e-3}


def test_people_get_one_figure_per_line():
    lines = describe(measure(sure(3, 1), sure(8, 1), np.array([3, 1])))
    assert [line.split("  ")[0] for line in lines] == [
        "images",
        "same digit",
        "largest difference",
        "mean difference",
        "reference accuracy",
        "engine accuracy",
        "changed digits",
    ]
    assert lines[-1].endswith("image 0 (3 became 8, label 3)")


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
    just_enough = Tolerances(
        max_difference=comparison.max_difference,
        max_accuracy_drop=comparison.reference_accuracy - comparison.candidate_accuracy,
        max_flip_margin=max((flip.margin for flip in comparison.flips), default=0.0),
    )
    assert judge(comparison, just_enough) == []


def test_a_reference_that_is_no_number_never_passes():
    reference = sure(3)
    reference[0, 0] = np.nan
    comparison = measure(reference, sure(3), np.array([3]))
    assert judge(comparison, Tolerances(max_difference=1, max_accuracy_drop=1, max_flip_margin=1))
    assert judge(measure(reference, reference, np.array([3])), Tolerances())
