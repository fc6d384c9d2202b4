"""Logs to trackio, a local dashboard; needs the extra `trackio`."""

import math
import secrets
from pathlib import Path
from typing import Any

from elucid.training.loggers.base import Logger, flat, remembered


class Trackio(Logger):
    """Logs statistics, sample grids, options and environment to trackio, for `trackio show --project=elucid`.

    trackio keeps them on this machine, where the variable TRACKIO_DIR says. The step is the number of images seen.
    """

    package = "trackio"

    def __init__(self, folder: Path | None, project: str = "elucid"):
        super().__init__(folder)
        self.project = project
        self.run: Any = None

    def start(self, options: dict[str, Any], nimg: int) -> None:
        import trackio  # imported late: an optional dependency

        folder, config = self.run_folder, flat({**options, "environment": self.about})
        # trackio tells runs apart by name alone, and folders of several places have the same.
        name = remembered(folder / "trackio-run.txt", lambda: f"{folder.name}-{secrets.token_hex(2)}")
        self.run = trackio.init(project=self.project, name=name, config=config, resume="allow", embed=False)

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        finite = {name: value["mean"] for name, value in values.items() if math.isfinite(value["mean"])}
        self.run.log(finite, step=nimg)

    def image(self, name: str, path: Path, nimg: int) -> None:
        import trackio

        self.run.log({name: trackio.Image(path)}, step=nimg)

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
