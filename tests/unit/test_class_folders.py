"""Folders of classes: names that every file system takes, and different ones."""

import pytest

from elucid.training.sampling.classes import class_folders, seeds_per_class


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (None, ["class_0000", "class_0001", "class_0002"]),
        (["cat", "dog"], ["class_0000", "class_0001", "class_0002"]),  # of another number of classes
        (["cat", "Great Dane", "ä-1.5 (b)"], ["cat", "Great Dane", "ä-1.5 (b)"]),
        (["a/b", "a\\b", "c"], ["a_b_0000", "a_b_0001", "c"]),
        (["Cat", "cat", "dog"], ["Cat_0000", "cat_0001", "dog"]),
        (["..", ".hidden", ""], ["class_0000", "hidden", "class_0002"]),
        (["dataset.json", "a", "x" * 300], ["dataset.json_0000", "a", "x" * 100]),
        (["a/b", "a:b", "a_b_0000"], ["class_0000", "class_0001", "class_0002"]),
    ],
)
def test_names(names, folders):
    assert class_folders(3, names) == folders


def test_seeds():
    assert seeds_per_class(2, 3, None) == ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2])
    assert seeds_per_class(1, 2, [10]) == ([10, 11], [0, 1])
