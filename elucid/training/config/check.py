"""Builds the components of a run for its dataset, and finds what is wrong with its options before it trains."""

from dataclasses import asdict, replace

from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError, note
from elucid.torch_utils import distributed
from elucid.training.config.build import Components, build
from elucid.training.config.data import AUTO, dataset_spec, measured_sigma_data, open_training_data
from elucid.training.config.latents import check_statistics, encoder_for
from elucid.training.config.settings import DataOptions, LoopOptions, eval_options
from elucid.training.data.base import Dataset
from elucid.training.losses.base import Loss
from elucid.training.optim.optimizers import make_optimizer
from elucid.training.registry.components import make, resolved


def check(options: dict) -> tuple[Dataset, Components]:
    """Raise UserError for every mistake that can be found before training; returned components have no weights."""
    loop = LoopOptions(**bind(LoopOptions, options["loop"], "loop"))
    loop.micro_batch(distributed.world_size())
    data = DataOptions(**bind(DataOptions, options["dataset"], "dataset"))
    dataset = open_training_data(replace(data, cache="none"))
    parts = build_for(options, dataset, weights=False)
    require_multiple(parts.loss, loop.micro_batch(distributed.world_size())[0])
    ema = make(options["ema"], "ema", "ema", denoiser=parts.denoiser)
    optimizer = make_optimizer(options["optimizer"], parts.loss.parameters_of(parts.denoiser, "main"))
    others = {name: make(options[name], name) for name in ("lr_schedule", "sampler", "schedule")}
    parts.options |= {name: resolved(one) for name, one in {"ema": ema, "optimizer": optimizer, **others}.items()}
    scoring = eval_options(options)
    parts.options |= {"dataset": asdict(data), "loop": asdict(loop), "eval": asdict(scoring) if scoring else {}}
    return dataset, parts


def build_for(
    options: dict, dataset: Dataset, precision: str = "fp32", weights: bool = True, skeleton: bool = False
) -> Components:
    """Call `build` for a dataset, which determines encoders of latents, arrays, maps, and `sigma_data` if "auto"."""
    check_statistics(options["encoder"], dataset)
    if dataset.arrays is not None and options.get("augment") and distributed.is_main():
        note("arrays are augmented as pictures are, by flips, rotations, scales; `augment`=0 if directions matter")
    options = {**options, "encoder": encoder_for(options["encoder"], dataset, options["precond"])}
    if dataset.maps is not None:
        about = options.get("maps") or {"name": "maps"}
        encoder = encoder_for(
            about.get("encoder") or {"name": "rgb"}, dataset.maps.dataset, options["precond"], "maps.encoder"
        )
        options["maps"] = {**about, "encoder": encoder, "channels": dataset.maps.dataset.channels}
    if options["precond"].get("sigma_data") == AUTO:
        options["precond"] = {**options["precond"], "sigma_data": measured_sigma_data(dataset, options["encoder"])}
    return build(options, dataset_spec(dataset), precision, weights, skeleton)


def require_multiple(loss: Loss, images: int) -> None:
    """Raise UserError unless a pass has a multiple of the images that the loss compares."""
    of = loss.batch_multiple
    if images % of:
        raise UserError(
            f"the loss compares groups of {of} images, a pass has {images}; choose multiples as `batch`, `batch_gpu`"
        )
