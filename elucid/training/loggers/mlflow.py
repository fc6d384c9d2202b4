"""Logs to MLflow; needs the extra `mlflow`."""

import math
import os
import time
from pathlib import Path
from typing import Any

from elucid.training.loggers.base import Logger, flat, remembered

MAX_PARAMETER = 500
"""Longest value of a parameter that every version of MLflow's server takes."""


class MLflow(Logger):
    """Logs statistics, sample grids, options and environment as one run of MLflow, which a resumed run continues.

    Server and experiment default to the variables MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. The step is the
    number of images seen.
    """

    package = "mlflow"

    def __init__(self, folder: Path | None, tracking_uri: str | None = None, experiment: str | None = None):
        super().__init__(folder)
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.client: Any = None
        self.run = ""

    def start(self, options: dict[str, Any], nimg: int) -> None:
        import mlflow  # imported late: an optional dependency

        if self.tracking_uri is not None:
            mlflow.set_tracking_uri(self.tracking_uri)
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        experiment, folder = mlflow.set_experiment(name), self.run_folder
        self.client = mlflow.MlflowClient()

        def new_run() -> str:
            return self.client.create_run(experiment.experiment_id, run_name=folder.name).info.run_id

        self.run = remembered(folder / "mlflow-run.txt", new_run)
        self.client.update_run(self.run, status="RUNNING")
        self.client.log_dict(self.run, options, "options.json")
        self.client.log_dict(self.run, self.about, "environment.json")
        known = self.client.get_run(self.run).data.params
        for name, value in flat(options).items():
            if name not in known:  # parameters cannot be changed; options.json has the present ones
                self.client.log_param(self.run, name, str(value)[:MAX_PARAMETER])

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        from mlflow.entities import Metric

        stamp = round(1000 * time.time())
        finite = {name: value["mean"] for name, value in values.items() if math.isfinite(value["mean"])}
        self.client.log_batch(self.run, metrics=[Metric(name, mean, stamp, nimg) for name, mean in finite.items()])

    def image(self, name: str, path: Path, nimg: int) -> None:
        self.client.log_artifact(self.run, str(path), name)

    def close(self) -> None:
        if self.client is not None:
            self.client.set_terminated(self.run)
