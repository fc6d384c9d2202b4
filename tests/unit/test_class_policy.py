"""The classes of samples by policy: the right shares in each beginning of the list, the same for the same seeds."""

import json

import numpy as np
import pytest

import elucid
from elucid.training.data.dataset import open_dataset
from elucid.training.sampling.class_policy import in_turn, policy_classes
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests.snapshots import save_random_snapshot


def test_each_beginning_has_the_shares():
    counts = np.array([5, 0, 3, 1])
    classes = in_turn(counts, 900)
    for num in (9, 90, 900):
        np.testing.assert_array_equal(np.bincount(classes[:num], minlength=4), counts * (num // 9))
    for num in range(1, 100):
        assert np.abs(np.bincount(classes[:num], minlength=4) - num * counts / 9).max() < 1
    assert policy_classes("equal", range(7), [9, 1, 1]) == [0, 1, 2, 0, 1, 2, 0]
    assert policy_classes("equal", [4, 4, 5], [9, 1, 1]) == [0, 0, 1]
    assert policy_classes("random", range(7), [9, 1, 1]) is None


@pytest.fixture
def snapshot(tmp_path):
    return save_random_snapshot(tmp_path / "snapshot.pkl", channels=1, classes=3)


def labels(folder) -> list[int]:
    return [label for _, label in sorted(json.loads((folder / "dataset.json").read_text())["labels"])]


def test_samples_have_the_classes_of_the_policy(snapshot, tmp_path):
    """The image of a seed is that of its class, however it was chosen."""
    equal = elucid.SampleOptions(steps=1, class_policy="equal")
    out = elucid.generate(snapshot, tmp_path / "out", range(6), equal, labels=True, device="cpu")
    assert labels(out) == [0, 1, 2, 0, 1, 2]
    model = elucid.load(snapshot, device="cpu")
    by_policy = model.sample(range(6), steps=1, class_policy="equal")
    assert (by_policy == model.sample(range(6), [0, 1, 2, 0, 1, 2], steps=1)).all()
    assert not (by_policy == model.sample(range(6), steps=1)).all()


def test_the_policy_of_the_data_needs_its_counts(snapshot, tmp_path):
    data = elucid.SampleOptions(steps=1, class_policy="data")
    with pytest.raises(elucid.UserError, match="does not say how many training images each class has"):
        elucid.generate(snapshot, tmp_path / "out", range(6), data, device="cpu")
    content = load_snapshot(snapshot, "cpu")
    content.dataset["class_counts"] = [4, 2, 0]
    save_snapshot(tmp_path / "counted.pkl", content)
    out = elucid.generate(tmp_path / "counted.pkl", tmp_path / "out", range(6), data, labels=True, device="cpu")
    assert labels(out) == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("options", "more", "reason"),
    [
        ({"class_policy": "even"}, {}, "unknown `class_policy` 'even'"),
        ({"class_policy": "equal", "classes": 1}, {}, "leave `classes` out"),
        ({"class_policy": "equal"}, {"per_class": 2}, "leave `class_policy` out"),
    ],
)
def test_policies_that_do_not_fit_are_refused(snapshot, tmp_path, options, more, reason):
    with pytest.raises(elucid.UserError, match=reason):
        elucid.generate(snapshot, tmp_path / "out", options=elucid.SampleOptions(**options), device="cpu", **more)


def test_data_sets_count_their_classes(tmp_path):
    path = tmp_path / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", path, max_images=80)
    counts = open_dataset(path, use_labels=True).class_counts
    assert sum(counts) == 80 and len(counts) == 10
    assert open_dataset(path).class_counts is None  # as a model without classes sees it
