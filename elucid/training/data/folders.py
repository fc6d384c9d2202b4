"""Finds the labels of a folder or zip: from `dataset.json`, or else from its top-level folders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data.archives import FileSet
from elucid.training.data.labels import Labels, from_json


@dataclass
class FoundLabels:
    """Result of `find_labels`: `labels` of the images in order, or None, and the dataset's folder `root`.

    `root` is e.g. `pets/`, or empty. `has_json` is True if there is a dataset.json, even one without labels.
    """

    labels: Labels | None
    root: str
    has_json: bool


def find_labels(files: FileSet, names: list[str]) -> FoundLabels:
    """Find the labels of the images with these names. Raises UserError for an invalid dataset.json."""
    root = root_folder(names, files)
    shorter = [name.removeprefix(root) for name in names]
    description = files.find(f"{root}dataset.json")
    if description is None:
        return FoundLabels(labels_from_folders(shorter), root, has_json=False)
    labels = from_json(files.read(description), shorter, f"{files.path}/{root}dataset.json", len(files))
    return FoundLabels(labels, root, has_json=True)


def root_folder(names: Sequence[str], files: FileSet) -> str:
    """Return the root folder of the dataset, e.g. `pets/` for a zip of the folder `pets`, which is not a class.

    It contains all images, and either all are in subfolders of it or it has a dataset.json.
    """
    root = ""
    while files.find(f"{root}dataset.json") is None:
        top = names[0].removeprefix(root).split("/")[0]
        deeper = f"{root}{top}/"
        if not names[-1].startswith(deeper):  # the names are sorted
            break
        if not all("/" in name[len(deeper) :] for name in names) and files.find(f"{deeper}dataset.json") is None:
            break
        root = deeper
    return root


def labels_from_folders(names: Sequence[str]) -> Labels | None:
    """Use the sorted top-level folders as classes; returns None if there are no folders or only numbered ones.

    Images outside of folders get no label.
    """
    class_names = sorted({folder for folder in _folders(names) if folder is not None})
    if not class_names or all(_is_numbered(name) for name in names):
        return None
    for name in class_names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"the folder {name} has a name that is not UTF-8, which no class can have; rename it")
    number = {name: i for i, name in enumerate(class_names)}
    values = (-1 if folder is None else number[folder] for folder in _folders(names))
    return Labels(np.fromiter(values, np.int64, len(names)), class_names)


def _folders(names: Iterable[str]) -> Iterable[str | None]:
    return (name.split("/", 1)[0] if "/" in name else None for name in names)


def _is_numbered(name: str) -> bool:
    """Return whether the folder only splits up a large number of files.

    That is `00012/img00012345.png`, as written by dataset_tool.py, or `012000/012345.png`, a thousand files per folder,
    as in generate.py --subdirs and FFHQ.
    """
    folder, _, file = name.partition("/")
    if len(folder) == 5 and folder.isdecimal() and file.startswith(f"img{folder}"):
        return True
    number = file.partition(".")[0]
    same_width = len(folder) == len(number) >= 5 and folder.isdecimal() and number.isdecimal()
    return same_width and int(folder) == int(number) // 1000 * 1000
