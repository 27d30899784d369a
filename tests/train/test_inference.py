import numpy as np
import pytest
import torch

from train.inference import accuracy, cross_entropy, measure, predict
from train.models import Recogniser, build


@pytest.fixture
def recogniser():
    torch.manual_seed(0)
    return Recogniser(build("compact", dropout=0.5))


def test_predictions_do_not_depend_on_the_batch_size(recogniser, dataset):
    whole, parts = (predict(recogniser, dataset.test, batch_size) for batch_size in (1000, 7))
    assert whole.shape == (50, 10)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_predictions_are_made_in_evaluation_mode(recogniser, dataset):
    recogniser.train()
    first, again = (predict(recogniser, dataset.test) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_accuracy_is_the_share_of_right_digits():
    probabilities = np.eye(10, dtype=np.float32)[[3, 4, 5, 6]]
    assert accuracy(probabilities, np.array([3, 4, 5, 0])) == 0.75


def test_cross_entropy_agrees_with_pytorch():
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert cross_entropy(logits.softmax(dim=1).numpy(), labels.numpy()) == pytest.approx(expected, rel=1e-5)


def test_a_probability_of_zero_gives_a_finite_loss():
    assert 80 < cross_entropy(np.eye(10, dtype=np.float32)[[1]], np.array([2])) < 90


def test_a_probability_that_is_not_a_number_shows_in_the_loss():
    assert np.isnan(cross_entropy(np.full((1, 10), np.nan, dtype=np.float32), np.array([2])))


def test_measuring_gives_loss_and_accuracy(recogniser, dataset):
    probabilities, labels = predict(recogniser, dataset.test), dataset.test.labels.numpy()
    assert measure(recogniser, dataset.test) == (cross_entropy(probabilities, labels), accuracy(probabilities, labels))
