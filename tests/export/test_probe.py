"""The probe set of an export: some test images of each digit, with what the checkpoint answers."""

import collections
from pathlib import Path

import numpy as np

import train.checkpoint
import train.data
from bundle import Bundle, probe
from export import probe as export_probe
from export.gate import TestSet
from train.inference import predict


def test_it_holds_as_many_test_images_of_each_digit_and_the_checkpoints_answers(bundle: Path, checkpoint: Path) -> None:
    found = probe.read(Bundle.open(bundle).read(probe.PROBE))
    assert collections.Counter(each.label for each in found) == dict.fromkeys(range(10), 20)
    stored = train.checkpoint.load(checkpoint)
    test = train.data.load(stored.data["name"]).test
    answers = predict(stored.recogniser(), test)
    by_image = {pixels.tobytes(): index for index, pixels in enumerate(test.pixels.numpy())}
    for each in found:
        index = by_image[each.pixels]
        assert each.label == test.labels[index]
        np.testing.assert_allclose(each.probabilities, answers[index], atol=1e-6)


def test_the_choice_is_always_the_same_and_takes_what_there_is_of_a_rare_digit() -> None:
    labels = np.repeat(np.arange(10), [3, *[40] * 9])
    test = TestSet(
        data={},
        pixels=np.random.default_rng(0).integers(0, 256, (len(labels), 1, 28, 28), dtype=np.uint8),
        labels=labels,
        reference_name="",
        reference=np.full((len(labels), 10), 0.1, np.float32),
    )
    content = export_probe.choose(test)
    assert content == export_probe.choose(test)
    assert collections.Counter(each.label for each in probe.read(content))[0] == 3
