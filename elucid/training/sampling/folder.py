"""A folder of samples: one PNG per seed, which says what made it, and the classes as `dataset.json`."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import atomic_write
from elucid.training.data.pictures import DECODE_ERRORS, opened
from elucid.training.sampling.generate import Samples
from elucid.training.sampling.grid import png

NOTE = "elucid"
"""The PNG text chunk in which a sample says its class and the digest of the options that made it."""


def digest(options: dict) -> str:
    """A short name for everything that decides what a seed looks like."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]


def read_note(file: Path | IO[bytes]) -> dict | None:
    """What a sample says of itself, {"class": ..., "by": digest}; None for a picture of other origin."""
    try:
        with opened(file) as image:
            note = json.loads(image.info.get(NOTE, "null"))
    except DECODE_ERRORS:
        return None
    return note if isinstance(note, dict) and "class" in note else None


class SampleFolder:
    """`000007.png` for seed 7, with `subdirs` `000000/000007.png` in folders of 1000.

    `made_by` is the `digest` of the options: an image that other options made is never taken for this run's.
    """

    def __init__(self, path: str | os.PathLike, made_by: str, subdirs: bool = False):
        self.path, self.made_by, self.subdirs = Path(path), made_by, subdirs
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"`outdir`={path} cannot be made: {error.strerror}; choose another folder") from error

    def name(self, seed: int) -> str:
        """File of a seed, relative to the folder."""
        return f"{seed - seed % 1000:06d}/{seed:06d}.png" if self.subdirs else f"{seed:06d}.png"

    def finished(self, seeds: Iterable[int]) -> dict[int, int | None]:
        """The seeds whose images are there already, with their classes.

        Raises UserError naming an image that other options or another program made.
        """
        classes = {}
        for seed in seeds:
            path = self.path / self.name(seed)
            if not path.exists():
                continue
            note = read_note(path)
            if note is None or note.get("by") != self.made_by:
                raise UserError(
                    f"{path} was made by another network or with other options; give `overwrite`, or another `outdir`"
                )
            classes[seed] = note["class"]
        return classes

    @contextmanager
    def writing(self, workers: int = 4) -> Iterator[Callable[[Samples], None]]:
        """A function that takes samples and returns at once; on leaving, all of them are on disk.

        After an error only those images are finished that are being written.
        """
        waiting: deque[Future] = deque()
        pool = ThreadPoolExecutor(workers)
        try:

            def write(samples: Samples) -> None:
                classes = [None] * len(samples.seeds) if samples.labels is None else samples.labels.tolist()
                for seed, image, class_idx in zip(samples.seeds, samples.images.cpu(), classes, strict=True):
                    waiting.append(pool.submit(self._write, seed, image, class_idx))
                # Failures are raised soon; at most 1024 images wait in memory, should sampling be faster than the disk.
                while waiting and (waiting[0].done() or len(waiting) > 1024):
                    waiting.popleft().result()

            yield write
            while waiting:
                waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _write(self, seed: int, image: Tensor, class_idx: int | None) -> None:
        note = json.dumps({"class": class_idx, "by": self.made_by})
        path = self.path / self.name(seed)
        try:
            with atomic_write(path, durable=False) as file:
                file.write(png(image, {NOTE: note}))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; make room and run again") from error

    def read(self, seeds: Iterable[int]) -> Tensor:
        """The images of finished seeds, u8[N,C,H,W]."""
        arrays = [np.array(opened(self.path / self.name(seed))) for seed in seeds]
        return torch.stack([torch.from_numpy(a[None] if a.ndim == 2 else a.transpose(2, 0, 1)) for a in arrays])

    def write_labels(self, classes: dict[int, int], class_names: list[str] | None = None) -> None:
        """Add the seeds' classes to `dataset.json`; with it the folder is a labelled dataset.

        What it says of other images stays, where they are still there. Raises UserError if it is no such file.
        """
        path = self.path / "dataset.json"
        labels = {name: label for name, label in self._read_labels(path) if (self.path / name).is_file()}
        labels |= {self.name(seed): class_idx for seed, class_idx in classes.items()}
        content: dict = {"labels": [[name, labels[name]] for name in sorted(labels)]}
        if class_names:
            content["class_names"] = class_names
        with atomic_write(path) as file:
            file.write(json.dumps(content).encode())

    @staticmethod
    def _read_labels(path: Path) -> list:
        if not path.exists():
            return []
        try:
            pairs = json.loads(path.read_bytes())["labels"] or []
            return [(str(name), label) for name, label in pairs]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no dataset.json with labels; remove it, or choose another `outdir`") from error
