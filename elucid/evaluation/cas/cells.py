"""Finished trainings, one small file each, with the options they belong to."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.evaluation.cas.scores import Scores

VERSION = 1
"""Raise it when a training of the same options gives other scores."""


class Cells:
    """Scores by the options of their training, in a folder; a file's name has the options' hash.

    So other options never mix, and what does not depend on the synthetic images need not be trained again for others.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def path(self, options: dict[str, Any]) -> Path:
        """Return the file of a training; `options` has at least `set` and `seed`."""
        text = json.dumps({"version": VERSION, **options}, sort_keys=True)
        return self.folder / f"{options['set']}-{options['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def load(self, options: dict[str, Any]) -> Scores | None:
        """Return the scores, or None if there are none. Raises UserError for a damaged file."""
        path = self.path(options)
        try:
            return Scores.of_dict(json.loads(path.read_text(encoding="utf-8"))["scores"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; remove it") from error
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is not a finished training ({type(error).__name__}); remove it") from error

    def save(self, options: dict[str, Any], scores: Scores) -> None:
        """Write scores atomically. Raises UserError naming the file on failure."""
        with write_output(self.path(options)) as file:
            file.write(json.dumps({"options": options, "scores": vars(scores)}).encode() + b"\n")
