"""Logs to Weights & Biases; needs the extra `wandb`."""

import secrets
from pathlib import Path
from typing import Any

from elucid.training.loggers.base import Logger, remembered


class WandB(Logger):
    """Logs statistics, sample grids, options and environment as one run of wandb, which a resumed run continues.

    `project` and `mode` ("online", "offline", "disabled") default to the variables WANDB_PROJECT and WANDB_MODE. The
    horizontal axis is `Progress/kimg`.
    """

    package = "wandb"

    def __init__(self, folder: Path | None, project: str | None = None, mode: str | None = None):
        super().__init__(folder)
        self.project, self.mode = project, mode
        self.run: Any = None

    def start(self, options: dict[str, Any], nimg: int) -> None:
        import wandb  # imported late: an optional dependency

        folder = self.run_folder
        self.run = wandb.init(
            project=self.project,
            mode=self.mode,
            dir=str(folder),
            name=folder.name,
            id=remembered(folder / "wandb-run.txt", lambda: secrets.token_hex(4)),
            resume="allow",
            config={**options, "environment": self.about},
            allow_val_change=True,
        )
        self.run.define_metric("*", step_metric="Progress/kimg")

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        self.run.log({name: value["mean"] for name, value in values.items()})

    def image(self, name: str, path: Path, nimg: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(str(path)), "Progress/kimg": nimg / 1000})

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
