"""The gate: what it asks, what it finds, and that nothing that only looks right in FP16 gets past it."""

import base64
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from onnx import TensorProto

from export import gate, graph, half, to_onnx
from export.tolerances import DEFAULTS, Tolerances
from serve.engines.onnx_runtime import open_onnx_runtime
from tests.fakes import images
from train import data
from train.checkpoint import load, save
from train.data import Dataset, Split

STRICT = DEFAULTS["fp32"]
# Lets answers differ by far more than they may differ from batch to batch.
ROOMY = dataclasses.replace(STRICT, max_difference=0.1)


def answer(pixels: np.ndarray) -> np.ndarray:
    """Of every image its own probabilities, whatever its company; decided everywhere."""
    strength = pixels[:, 0, 0, :10].astype(np.float32)
    strength[np.arange(len(pixels)), strength.argmax(axis=1)] += 100
    return strength / strength.sum(axis=1, keepdims=True)


def questions(pixels: np.ndarray) -> gate.TestSet:
    """These images, of which `answer` gets each right."""
    reference = answer(pixels)
    return gate.TestSet(
        data={"name": "questions", "sha256": "0" * 64},
        pixels=pixels,
        labels=reference.argmax(axis=1).astype(np.int64),
        reference_name="the truth",
        reference=reference,
    )


def which(pixels: np.ndarray, asked: np.ndarray) -> list[int]:
    """The index among `pixels` of each image that was asked about."""
    known = {image.tobytes(): index for index, image in enumerate(pixels)}
    return [known[image.tobytes()] for image in asked]


class Engine:
    """Answers right, apart from what a test lets it do, and remembers what it was asked."""

    def __init__(self, spoil: Callable[[np.ndarray, np.ndarray], None] = lambda pixels, answers: None) -> None:
        self.spoil = spoil
        self.batches: list[np.ndarray] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(pixels.copy())
        answers = answer(pixels)
        self.spoil(pixels, answers)
        return answers


def turn(answers: np.ndarray) -> None:
    """Give each image the digit after its own."""
    answers[:] = np.roll(answers, 1, axis=1)


# Answers


def test_a_candidate_that_answers_alike_passes():
    test = questions(images(20))
    check = gate.check_answers("twin", test, answer, STRICT)
    assert (check.name, check.reference, check.findings, check.passed) == ("twin", "the truth", [], True)
    assert (check.comparison.images, check.comparison.flips) == (20, [])


def test_chosen_images_alone_are_asked_and_reported_by_their_place_in_the_test_set():
    pixels = images(20)
    chosen = np.array([3, 7, 19])

    def spoil(asked: np.ndarray, answers: np.ndarray) -> None:
        for place, index in enumerate(which(pixels, asked)):
            if index in (7, 19):
                answers[place] = np.roll(answers[place], 1)

    engine, test = Engine(spoil), questions(pixels)
    check = gate.check_answers("candidate", test, engine.run, STRICT, chosen)
    assert [which(pixels, batch) for batch in engine.batches] == [[3, 7, 19]]
    assert check.comparison.images == 3
    assert [(flip.image, flip.label, flip.reference) for flip in check.comparison.flips] == [
        (index, test.labels[index], test.labels[index]) for index in (7, 19)
    ]
    assert not check.passed


def test_the_least_decided_images_have_the_smallest_leads():
    leads = [0.5, 0.01, 0.9, 0.2, 0.02, 0.4]
    reference = np.zeros((6, 10), np.float32)
    reference[:, 4] = [(1 + each) / 2 for each in leads]
    reference[:, 7] = [(1 - each) / 2 for each in leads]
    test = dataclasses.replace(questions(images(6)), reference=reference)
    assert test.least_decided(3).tolist() == [1, 3, 4]
    assert test.least_decided(100).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_test_set_is_the_data_sets_test_images_answered_by_the_reference():
    dataset = data.load("digits8x8")
    test = gate.TestSet.of(dataset, "nobody", lambda pixels: np.full((len(pixels), 10), 0.1, np.float32))
    assert test.data == {"name": "digits8x8", "sha256": dataset.sha256}
    np.testing.assert_array_equal(test.pixels, dataset.test.pixels.numpy())
    np.testing.assert_array_equal(test.labels, dataset.test.labels.numpy())
    assert test.reference.shape == (360, 10)


# Engines


def test_every_image_is_asked_at_every_size():
    pixels, engine = images(48), Engine()
    check = gate.check_engine("engine", questions(pixels), engine.run, STRICT, [1, 4, 16], each=True)
    for size in (1, 4, 16):
        asked = {index for batch in engine.batches if len(batch) == size for index in which(pixels, batch)}
        assert asked == set(range(48))
    assert (check.findings, check.batch_difference, check.comparison.images) == ([], 0, 48)


def test_one_round_takes_all_sizes_in_turn_and_asks_every_image():
    pixels, engine = images(300), Engine()
    check = gate.check_engine("engine", questions(pixels), engine.run, STRICT, [1, 7, 16, 64, 256], each=False)
    asked = [index for batch in engine.batches for index in which(pixels, batch)]
    assert asked[:300] == list(range(300))
    assert {1, 7, 16, 64, 256} <= {len(batch) for batch in engine.batches}
    assert (check.findings, check.batch_difference, check.comparison.images) == ([], 0, 300)


@pytest.mark.parametrize("bad", [1, 4, 16])
def test_an_engine_that_is_wrong_at_one_size_is_refused_with_what_it_does_there(bad):
    def spoil(pixels: np.ndarray, answers: np.ndarray) -> None:
        if len(pixels) == bad:
            turn(answers)

    tolerances = dataclasses.replace(STRICT, max_batch_difference=1)
    check = gate.check_engine("engine", questions(images(48)), Engine(spoil).run, tolerances, [1, 4, 16], each=True)
    assert len(check.comparison.flips) == 48
    assert any(finding.startswith(f"in batches of {bad}, accuracy falls by 100.0000%") for finding in check.findings)


def test_of_several_sizes_that_pass_the_worst_is_reported():
    off = {1: 0.0, 4: 0.003, 16: 0.001}

    def spoil(pixels: np.ndarray, answers: np.ndarray) -> None:
        answers[:, 0] += off[len(pixels)]

    tolerances = dataclasses.replace(ROOMY, max_batch_difference=1)
    check = gate.check_engine("engine", questions(images(48)), Engine(spoil).run, tolerances, [1, 4, 16], each=True)
    assert check.passed
    assert check.comparison.max_difference == pytest.approx(0.003, rel=1e-3)


# What an answer may not depend on. Each changes it by little, so that nothing else is found.


def place(pixels: np.ndarray, answers: np.ndarray) -> None:
    answers[3:4, 0] += 0.01


def last_place(pixels: np.ndarray, answers: np.ndarray) -> None:
    answers[15:16, 0] += 0.01


def neighbour(pixels: np.ndarray, answers: np.ndarray) -> None:
    answers[1:, 0] += 0.01 * pixels[:-1, 0, 5, 5] / 255


def size(pixels: np.ndarray, answers: np.ndarray) -> None:
    answers[:, 0] += 0.01 * (len(pixels) == 7)


@pytest.mark.parametrize("each", [True, False], ids=["each size", "one round"])
@pytest.mark.parametrize("spoil", [place, last_place, neighbour, size])
def test_an_answer_that_depends_on_the_company_is_found(spoil, each):
    engine = Engine(spoil)
    check = gate.check_engine("engine", questions(images(160)), engine.run, ROOMY, [1, 7, 16], each=each)
    assert check.batch_difference == pytest.approx(0.01, rel=0.1)
    [finding] = check.findings
    assert finding.startswith("the same image gets probabilities that differ by 0.0")
    assert finding.endswith("in different batches, at most 0.0001 is tolerated")


def test_every_place_of_the_largest_batch_is_tried():
    pixels, engine = images(256), Engine()
    gate.check_engine("engine", questions(pixels), engine.run, STRICT, [1, 256], each=False)
    largest = [which(pixels, batch) for batch in engine.batches if len(batch) == 256]
    assert all(len({order[place] for order in largest}) > 10 for place in range(256))


def test_an_engine_that_takes_one_size_only_is_tried_at_all_places_of_it():
    check = gate.check_engine("engine", questions(images(64)), Engine(place).run, ROOMY, [8], each=True)
    assert check.batch_difference == pytest.approx(0.01, rel=0.05)
    assert not check.passed


def test_fewer_images_than_the_largest_batch_holds_are_enough():
    engine = Engine()
    check = gate.check_engine("engine", questions(images(5)), engine.run, STRICT, [1, 16], each=True)
    assert check.passed
    assert {len(batch) for batch in engine.batches} == {1, 5}


# Range


def test_the_room_is_measured_by_the_layer_that_has_least():
    weights = {"count": 10, "overflowing": 0, "vanishing": 1, "subnormal": 2}
    check = gate.check_range("range", {"a": 8.0, "b": 6550.4, "c": 2.0}, weights, 65504.0, STRICT)
    assert check.passed
    assert check.range["headroom"] == pytest.approx(10)
    assert check.range["weights"] == weights


@pytest.mark.parametrize("peak", [math.nan, math.inf])
def test_a_peak_that_is_no_number_leaves_no_room_wherever_it_is(peak):
    weights = {"count": 1, "overflowing": 0, "vanishing": 0, "subnormal": 0}
    for peaks in ({"a": 1.0, "b": peak}, {"b": peak, "a": 1.0}):
        check = gate.check_range("range", peaks, weights, 65504.0, STRICT)
        assert not check.passed
        assert not check.range["headroom"] > 0


def test_weights_beyond_fp16_are_refused_where_all_values_are_small():
    weights = {"count": 10, "overflowing": 2, "vanishing": 0, "subnormal": 0}
    check = gate.check_range("range", {"a": 1.0}, weights, 65504.0, STRICT)
    assert check.findings == ["2 weights are beyond 65504, FP16's largest number; none may be"]


# The report


def test_the_pictures_are_those_of_the_images_that_changed_their_digit():
    pixels = images(20)

    def wrong_on(*chosen: int) -> gate.Check:
        def spoil(asked: np.ndarray, answers: np.ndarray) -> None:
            answers[list(chosen)] = np.roll(answers[list(chosen)], 1, axis=1)

        return gate.check_answers("candidate", test, Engine(spoil).run, STRICT)

    test = questions(pixels)
    peaks = gate.check_range("range", {"a": 1.0}, {"overflowing": 0}, 65504.0, STRICT)
    found = gate.pictures(test, [wrong_on(12, 2), peaks, wrong_on(), wrong_on(2, 5)])
    assert list(found) == ["2", "5", "12"]
    for index, text in found.items():
        assert base64.b64decode(text) == pixels[int(index)].tobytes()


def test_the_pictures_of_an_engine_that_is_wrong_everywhere_do_not_make_the_report_huge():
    pixels = images(2000)
    check = gate.check_answers("candidate", questions(pixels), lambda asked: np.roll(answer(asked), 1, axis=1), STRICT)
    found = gate.pictures(questions(pixels), [check])
    assert len(check.comparison.flips) == 2000
    assert list(found) == [str(index) for index in range(len(found))]
    assert 20 <= len(found) <= 200


def test_a_report_survives_being_written_and_read():
    test = questions(images(20))
    checks = [gate.check_answers("candidate", test, lambda asked: np.roll(answer(asked), 1, axis=1), STRICT)]
    report = gate.Report(
        model={"name": "compact", "version": "1"},
        data=test.data,
        images=20,
        tolerances=dict(DEFAULTS),
        checks=checks,
        pictures=gate.pictures(test, checks),
    )
    document = report.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["checks"][0]["findings"] == checks[0].findings
    assert Tolerances(**document["tolerances"]["fp16"]) == DEFAULTS["fp16"]


# End to end


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def verdicts(self) -> dict[str, str]:
        """What was printed of each check."""
        words = [line.split() for line in self.out.splitlines() if line.startswith("  ")]
        return {f"{first} {second}": verdict for first, second, verdict, *_ in words}


@pytest.fixture
def export(monkeypatch, capsys) -> Callable[..., Ended]:
    """`python -m export.to_onnx ARGUMENTS`."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["to_onnx", *map(str, arguments)])
        status = to_onnx.main()
        return Ended(status, *capsys.readouterr())

    return run


def scaled(good: Path, path: Path, *scales: int) -> Path:
    """A checkpoint of `compact` whose hidden layers give so many times what they gave, and take it back again.

    Between batch norm and the next convolution there is nothing but ReLU and max-pooling, which let a factor through,
    and powers of two round nothing: in FP32 the function is the same to the last bit.
    """
    stored = load(good)
    weights = dict(stored.weights)
    norms_and_next = ((1, 3), (4, 8), (9, 11), (12, 16), (17, 19))
    for (norm, following), scale in zip(norms_and_next, scales, strict=True):
        for name in (f"{norm}.weight", f"{norm}.bias"):
            weights[name] = weights[name] * scale
        weights[f"{following}.weight"] = weights[f"{following}.weight"] / scale
    save(path, dataclasses.replace(stored, weights=weights))
    return path


def answers_of(checkpoint: Path, test: Split) -> np.ndarray:
    return load(checkpoint).recogniser()(test.pixels).detach().numpy()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load("digits8x8")


def test_a_network_that_overflows_in_fp16_only_is_refused_although_onnx_runtime_passes_it(
    export, checkpoint, dataset, tmp_path
):
    # Up over three layers and down again, so that no single weight leaves FP16's normal numbers.
    overflowing = scaled(checkpoint, tmp_path / "best.pt", 2**5, 2**10, 2**14, 2**10, 2**5)
    np.testing.assert_array_equal(answers_of(overflowing, dataset.test), answers_of(checkpoint, dataset.test))

    ended = export(overflowing)

    assert ended.status == 1
    assert ended.verdicts == {
        "onnx fp32": "passed",
        "onnx fp16": "passed",
        "torch fp16": "REFUSED",
        "range fp16": "REFUSED",
    }
    [line] = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: nothing is published: torch fp16: ")
    assert "images have probabilities that are NaN or infinite; none may; torch fp16: " in line
    assert re.search(
        r"; range fp16: \d layers give values up to \S+ \(\d Conv2d\), too near 65504, FP16's largest", line
    )
    assert "weights are beyond" not in line
    page = tmp_path / "bundle-refused.html"
    assert line.endswith(f"; see {page}")
    assert sorted(tmp_path.iterdir()) == [overflowing, page]
    content = page.read_text("utf-8")
    for name, refused in (("onnx fp32", False), ("onnx fp16", False), ("torch fp16", True), ("range fp16", True)):
        assert (f'<p class="finding"><strong>{name}</strong>: ' in content) is refused


def test_values_that_only_come_near_the_limit_are_refused_by_the_range_check_alone(
    export, checkpoint, dataset, tmp_path
):
    tall = scaled(checkpoint, tmp_path / "best.pt", 1, 2**6, 2**12, 2**6, 1)
    ended = export(tall)
    assert ended.status == 1
    assert {name for name, verdict in ended.verdicts.items() if verdict != "passed"} == {"range fp16"}
    assert "error: nothing is published: range fp16: 1 layers give values up to " in ended.err
    assert not (tmp_path / "bundle").exists()


def test_an_fp16_graph_that_silently_stayed_fp32_is_refused(export, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(half, "halve", half.folded)
    ended = export(checkpoint, "--output", tmp_path / "bundle")
    assert ended.status == 1
    assert "error: the graph is not what serving expects: 7 layers are not FLOAT16: " in ended.err
    assert not list(tmp_path.iterdir())


def test_an_fp16_graph_with_a_frozen_batch_axis_is_refused(export, checkpoint, tmp_path, monkeypatch):
    convert = graph.convert

    def freeze_half(recogniser):
        model = convert(recogniser)
        if any(each.data_type == TensorProto.FLOAT16 for each in model.graph.initializer):
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = 1
        return model

    monkeypatch.setattr(graph, "convert", freeze_half)
    ended = export(checkpoint, "--output", tmp_path / "bundle")
    assert ended.status == 1
    assert "input pixels has shape [1, 1, 28, 28], expected ['batch', 1, 28, 28]" in ended.err
    assert not list(tmp_path.iterdir())


def test_the_published_fp16_graph_holds_fp16_weights_and_answers_as_the_fp32_graph(bundle, dataset):
    pixels = dataset.test.pixels.numpy()
    answers = []
    for name in ("model.onnx", "model.fp16.onnx"):
        with open_onnx_runtime((bundle / name).read_bytes()) as engine:
            answers.append(engine.run(pixels))
    np.testing.assert_allclose(*answers, atol=1e-2)
    assert not np.array_equal(*answers)
    assert (bundle / "model.fp16.onnx").stat().st_size < 0.75 * (bundle / "model.onnx").stat().st_size
