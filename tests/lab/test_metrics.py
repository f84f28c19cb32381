"""Metrics against figures worked out by hand and against scikit-learn's own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, recall_score, roc_auc_score, top_k_accuracy_score

from alexnet_lab.training.metrics import (
    DENSE_UP_TO,
    classification_metrics,
    confusion_counts,
    expected_calibration_error,
    is_better,
    read_confusion,
)

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
LABELS = np.array([0, 0, 1, 2, 2])


def test_a_table_worked_out_by_hand():
    found = classification_metrics(PROBABILITIES, LABELS)
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["recall"] == pytest.approx([0.5, 1.0, 0.5])
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.6, 0.7, 0.2]).mean())
    assert found["top5_accuracy"] is None
    assert found["images"] == 5


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(0, 3))
@settings(deadline=None)
def test_metrics_are_those_of_scikit_learn(seed, classes, decimals):
    generator = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), generator.integers(0, classes, 60))
    # Rounded, so that scores are equal and some are 0.
    scores = generator.dirichlet(np.full(classes, 0.3), len(labels)).round(decimals) + (0 if decimals else 0.1)
    scores[scores.sum(1) == 0] = 1
    scores /= scores.sum(1, keepdims=True)
    found = classification_metrics(scores, labels)
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(labels == k, scores[:, k]) for k in range(classes)]))
    assert found["loss"] == pytest.approx(log_loss(labels, scores))
    recalls = recall_score(labels, scores.argmax(1), average=None)
    assert found["recall"] == pytest.approx(list(recalls))
    assert found["balanced_accuracy"] == pytest.approx(recalls.mean())
    if classes >= 10:
        assert found["top5_accuracy"] == top_k_accuracy_score(labels, scores, k=5)


def test_calibration_by_hand():
    # confidence .9 twice, one of them right: gap .4; confidence .6 once and right: gap .4
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    labels = np.array([0, 1, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 0.4) / 3)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_class_without_images_has_no_recall_and_spoils_nothing():
    found = classification_metrics(PROBABILITIES[:3], LABELS[:3])
    assert found["recall"][2] is None
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert found["auroc"] == pytest.approx(np.mean([0.5 + 0.5, 1.0]))
    assert classification_metrics(PROBABILITIES[:2], LABELS[:2])["auroc"] is None


def test_top_five_where_there_are_ten_classes():
    scores = np.tile(np.linspace(0.01, 0.19, 10), (10, 1))
    found = classification_metrics(scores / scores.sum(1, keepdims=True), np.arange(10))
    assert found["top5_accuracy"] == pytest.approx(0.5)


def test_better_means_less_for_a_loss_and_more_for_all_else():
    assert is_better("loss", 0.1, 0.2)
    assert is_better("accuracy", 0.2, 0.1)
    assert is_better("auroc", 0.2, None)
    assert not is_better("accuracy", 0.1, 0.1)
    assert not is_better("auroc", None, None)


@pytest.mark.parametrize("classes", [3, DENSE_UP_TO, DENSE_UP_TO + 1])
def test_the_confusion_matrix_is_scikit_learns_however_it_is_stored(classes):
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, classes, (2, 500))
    stored = json.loads(json.dumps(confusion_counts(labels, predicted, classes)))
    matrix = read_confusion(stored)
    expected = confusion_matrix(labels, predicted, labels=np.arange(classes))
    assert isinstance(stored, dict) == (classes > DENSE_UP_TO)
    np.testing.assert_array_equal(matrix if classes <= DENSE_UP_TO else matrix.toarray(), expected)
    np.testing.assert_array_equal(matrix.sum(1), expected.sum(1))
    np.testing.assert_array_equal(matrix.diagonal(), expected.diagonal())


def test_ten_thousand_classes_take_no_more_room_than_images():
    labels = np.arange(10_000)
    stored = confusion_counts(labels, labels[::-1].copy(), 10_000)
    assert len(json.dumps(stored)) < 200_000
    assert read_confusion(stored).sum() == 10_000


@pytest.mark.parametrize("stored", [[[1, 2]], [[1], [2]], ["a"], {"classes": 3}, {"classes": 1, "true": [5]}])
def test_a_stored_matrix_that_is_none_is_refused(stored):
    with pytest.raises(ValueError, match="the confusion matrix of the verdict cannot be read"):
        read_confusion(stored)
