"""The classifier of class agreement, its settings, and the interval of a share."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from elucid.dnnlib.errors import UserError
from elucid.evaluation.svc import (
    PixelClassifier,
    best_setting,
    class_agreement,
    commonest_confusions,
    confusion,
)
from elucid.metrics.wilson import interval


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images / 16 * 255).round().astype(np.uint8)[:, np.newaxis], data.target


def test_svc_knows_real_digits_and_notices_wrong_ones():
    images, labels = digits()
    judge = PixelClassifier(images[:1300], labels[:1300])
    assert judge.agreement(images[1300:], labels[1300:]) > 0.95
    assert judge.agreement(images[1300:], (labels[1300:] + 1) % 10) < 0.05
    assert class_agreement(images[:1300], labels[:1300], images[1300:], labels[1300:]) == judge.agreement(
        images[1300:], labels[1300:]
    )


def test_svc_refuses_what_does_not_fit():
    images, labels = digits()
    judge = PixelClassifier(images[:50], labels[:50])
    with pytest.raises(UserError, match="do not fit"):
        judge.agreement(images[:, :, :4], labels)
    with pytest.raises(UserError, match="labels"):
        judge.agreement(images, labels[:3])
    with pytest.raises(UserError, match="same class"):
        PixelClassifier(images[:5], np.zeros(5, dtype=int))


def test_interval_covers_the_share_as_often_as_it_says():
    random, share = np.random.RandomState(0), 0.93
    intervals = [interval(random.binomial(200, share) / 200, 200) for _ in range(2000)]
    covered = np.mean([low <= share <= high for low, high in intervals])
    assert 0.93 < covered < 0.975
    assert interval(1.0, 50)[1] == pytest.approx(1) and interval(0.0, 50)[0] == pytest.approx(0)


def test_a_grid_finds_the_setting_that_a_bad_one_is_not():
    images, labels = digits()
    C, gamma, tried = best_setting(images[:300], labels[:300])
    accuracy = {one[:2]: one[2] for one in tried}
    assert accuracy[C, gamma] == max(accuracy.values()) > 0.9
    right = PixelClassifier(images[:300], labels[:300], C, gamma).agreement(images[300:800], labels[300:800])
    too_wide = PixelClassifier(images[:300], labels[:300], 1.0, 1e-5).agreement(images[300:800], labels[300:800])
    assert right > 0.8 > too_wide
    with pytest.raises(UserError, match="fewer than 3"):
        best_setting(images[:12], labels[:12])


def test_confusions_are_counted():
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 1, 2])
    matrix = confusion(labels, predicted, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]
    assert commonest_confusions(matrix) == [(2, 1, 2), (0, 1, 1)] and commonest_confusions(matrix, 1) == [(2, 1, 2)]
