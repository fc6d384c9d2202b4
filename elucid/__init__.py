"""Elucid: a modular training framework for diffusion models.

    import elucid
    elucid.train(elucid.TrainOptions(data="images.zip", outdir="runs", preset="demo"))
    model = elucid.load("runs/00000-...")
    images = model.sample(seeds=range(16), classes=3, steps=18, guidance=1.5)

Public names are imported lazily, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from elucid.version import __version__

if TYPE_CHECKING:
    from elucid import datasets as datasets
    from elucid.api.averages import export_averages as export_averages
    from elucid.api.evaluations.agreement import class_agreement as class_agreement
    from elucid.api.evaluations.agreement import svc as svc
    from elucid.api.evaluations.arrays.ensemble import ensemble as ensemble
    from elucid.api.evaluations.arrays.restoration import restoration as restoration
    from elucid.api.evaluations.arrays.spectrum import spectrum as spectrum
    from elucid.api.evaluations.cas import cas as cas
    from elucid.api.evaluations.comparing.compare import compare as compare
    from elucid.api.evaluations.likelihood import Likelihood as Likelihood
    from elucid.api.evaluations.likelihood import nll as nll
    from elucid.api.evaluations.loss import heldout_loss as heldout_loss
    from elucid.api.evaluations.memorisation import memorisation as memorisation
    from elucid.api.evaluations.report import report as report
    from elucid.api.evaluations.scoring.watch import watch as watch
    from elucid.api.evaluations.sweep import sweep as sweep
    from elucid.api.evaluations.toy import toy as toy
    from elucid.api.generate import generate as generate
    from elucid.api.launch import train as train
    from elucid.api.models import Model as Model
    from elucid.api.models import load as load
    from elucid.api.models import save_grid as save_grid
    from elucid.api.models import show as show
    from elucid.api.scoring import Score as Score
    from elucid.api.scoring import reference as reference
    from elucid.api.scoring import score as score
    from elucid.dnnlib.errors import Stopped as Stopped
    from elucid.dnnlib.errors import UserError as UserError
    from elucid.evaluation.sweep import Range as Range
    from elucid.metrics.measures.evaluate import Metric as Metric
    from elucid.training.config.train_options import TrainOptions as TrainOptions
    from elucid.training.sampling.options import SampleOptions as SampleOptions

_PLACES = {
    "Likelihood": "elucid.api.evaluations.likelihood",
    "Metric": "elucid.metrics.measures.evaluate",
    "Model": "elucid.api.models",
    "Range": "elucid.evaluation.sweep",
    "SampleOptions": "elucid.training.sampling.options",
    "Score": "elucid.api.scoring",
    "Stopped": "elucid.dnnlib.errors",
    "TrainOptions": "elucid.training.config.train_options",
    "UserError": "elucid.dnnlib.errors",
    "cas": "elucid.api.evaluations.cas",
    "class_agreement": "elucid.api.evaluations.agreement",
    "compare": "elucid.api.evaluations.comparing.compare",
    "ensemble": "elucid.api.evaluations.arrays.ensemble",
    "export_averages": "elucid.api.averages",
    "generate": "elucid.api.generate",
    "heldout_loss": "elucid.api.evaluations.loss",
    "load": "elucid.api.models",
    "memorisation": "elucid.api.evaluations.memorisation",
    "nll": "elucid.api.evaluations.likelihood",
    "reference": "elucid.api.scoring",
    "report": "elucid.api.evaluations.report",
    "restoration": "elucid.api.evaluations.arrays.restoration",
    "save_grid": "elucid.api.models",
    "score": "elucid.api.scoring",
    "show": "elucid.api.models",
    "spectrum": "elucid.api.evaluations.arrays.spectrum",
    "sweep": "elucid.api.evaluations.sweep",
    "svc": "elucid.api.evaluations.agreement",
    "toy": "elucid.api.evaluations.toy",
    "train": "elucid.api.launch",
    "watch": "elucid.api.evaluations.scoring.watch",
}
"""Where each public name is defined."""

__all__ = ["__version__", "datasets", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name == "datasets":
        return import_module("elucid.datasets")
    if name not in _PLACES:
        raise AttributeError(f"module 'elucid' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
