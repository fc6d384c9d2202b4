"""Labels of a folder or zip: those of its `dataset.json`, else its top-level folders are the classes."""

from dataclasses import dataclass

import numpy as np

from elucid.training.data.archives import FileSet
from elucid.training.data.labels import Labels, from_json


@dataclass
class Found:
    """`labels` of the images in order, or None; `inside` is where the data set begins (`pets/`, or nothing).

    `described` says whether there is a dataset.json, whatever it says.
    """

    labels: Labels | None
    inside: str
    described: bool


def find_labels(files: FileSet, names: list[str]) -> Found:
    """The labels of the images of these names. Raises UserError for a dataset.json that is damaged or does not fit."""
    inside = folder_of_all(names, files)
    shorter = [name.removeprefix(inside) for name in names]
    description = files.find(f"{inside}dataset.json")
    if description is None:
        return Found(labels_from_folders(shorter), inside, described=False)
    labels = from_json(files.read(description), shorter, f"{files.path}/{inside}dataset.json")
    return Found(labels, inside, described=True)


def folder_of_all(names: list[str], files: FileSet) -> str:
    """Where a data set begins, `pets/` for a zip of the folder `pets`: it holds all pictures, and is no class itself.

    That is so where every picture lies in a subfolder of it, or where it has a dataset.json.
    """
    inside = ""
    while files.find(f"{inside}dataset.json") is None:
        top = names[0].removeprefix(inside).split("/")[0]
        deeper = f"{inside}{top}/"
        if not all(name.startswith(deeper) for name in names):
            break
        if not all("/" in name[len(deeper) :] for name in names) and files.find(f"{deeper}dataset.json") is None:
            break
        inside = deeper
    return inside


def labels_from_folders(names: list[str]) -> Labels | None:
    """Classes from top-level folder names, sorted; None when there are no folders, or only numbered ones.

    Pictures outside any folder get no label.
    """
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    class_names = sorted({folder for folder in folders if folder is not None})
    if not class_names or all(_is_numbered(name) for name in names):
        return None
    number = {name: i for i, name in enumerate(class_names)}
    values = [-1 if folder is None else number[folder] for folder in folders]
    return Labels(np.array(values, dtype=np.int64), class_names)


def _is_numbered(name: str) -> bool:
    """Whether the folder only keeps folders small: `00012/img00012345.png`, as dataset_tool.py writes them, or
    `012000/012345.png`, as generate.py --subdirs and FFHQ have it, a thousand to a folder.
    """
    folder, _, file = name.partition("/")
    if len(folder) == 5 and folder.isdecimal() and file.startswith(f"img{folder}"):
        return True
    number = file.partition(".")[0]
    same_width = len(folder) == len(number) >= 5 and folder.isdecimal() and number.isdecimal()
    return same_width and int(folder) == int(number) // 1000 * 1000
