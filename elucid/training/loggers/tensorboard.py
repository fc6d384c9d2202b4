"""Logs to TensorBoard's event files, in the run's folder `tensorboard`; needs the extra `tensorboard`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from elucid.training.data.pictures import load_picture
from elucid.training.loggers.base import Logger


class TensorBoard(Logger):
    """Writes scalars, sample grids, options and environment for `tensorboard --logdir=RUNS`.

    The step is the number of images seen. A resumed run replaces what lies after its state.
    """

    package = "tensorboard"

    def __init__(self, folder: Path | None):
        super().__init__(folder)
        self.writer: Any = None

    def start(self, options: dict[str, Any], nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported late: an optional dependency

        self.writer = SummaryWriter(str(self.run_folder / "tensorboard"), purge_step=nimg + 1)
        self._text("options", options, nimg)
        self._text("environment", self.about, nimg)

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value["mean"], nimg)
        self.writer.flush()

    def image(self, name: str, path: Path, nimg: int) -> None:
        picture = load_picture(path.read_bytes(), str(path))
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), nimg, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _text(self, name: str, values: dict[str, Any], nimg: int) -> None:
        indented = json.dumps(values, indent=2).replace("\n", "\n    ")
        self.writer.add_text(name, f"    {indented}", nimg)  # four spaces: shown as code
