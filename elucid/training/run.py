"""A run: everything that trains, and how it is saved and taken up again exactly."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from elucid.dnnlib.config import bind, construct
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.torch_utils import distributed
from elucid.torch_utils.checkpoint import save_state
from elucid.torch_utils.rng import random_state, seed_everything, set_random_state
from elucid.torch_utils.stats import Statistics
from elucid.training.config.build import Parts, build, make, resolved
from elucid.training.config.settings import DataOptions, LoopOptions
from elucid.training.data.cache import cached
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.stream import BatchStream
from elucid.training.ema import EMA
from elucid.training.encoders.vae import stored_encoder
from elucid.training.objective import Objective
from elucid.training.registry.names import ENCODERS, OPTIMIZERS
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec, Step


def open_training_data(options: DataOptions):
    """The data set of a run, cached as its options say; one process per machine fills the cache, the others wait."""
    dataset = open_dataset(
        options.path,
        use_labels=options.use_labels,
        max_size=options.max_size,
        seed=options.subset_seed,
        latents=True,
    )
    if dataset.encoder is not None and options.xflip:
        raise UserError(
            f"--xflip=1: {options.path} holds latents, and mirrored latents are not those of the mirrored image; "
            "train without it, or on the images themselves"
        )
    if dataset.has_labels and not options.use_labels:
        distributed.print0("warning: the data set has labels but --cond is off: they are not used")
    if options.label_dropout and not dataset.label_dim:
        distributed.print0("warning: --label_dropout drops nothing, as the model is not told labels; give --cond=1 too")
    if options.cache == "none":
        return dataset
    if distributed.local_rank() == 0:
        dataset = cached(dataset, None)
    distributed.barrier()
    return cached(dataset, None, progress=False) if distributed.local_rank() != 0 else dataset


def dataset_spec(dataset) -> NetSpec:
    """What the data set alone asks of a network; for stored latents, before the encoder has seen them."""
    return NetSpec(
        resolution=dataset.resolution,
        image_channels=dataset.channels,
        label_dim=dataset.label_dim,
        latent=dataset.encoder is not None,
    )


def build_for(options: dict, dataset, precision: str = "fp32", weights: bool = True) -> Parts:
    """`build` for a data set; latents that it stores say themselves which encoder they need."""
    options = {**options, "encoder": stored_encoder(options["encoder"], dataset)}
    return build(options, dataset_spec(dataset), precision, weights)


def check(options: dict) -> tuple[ImageDataset, Parts]:
    """Raise UserError for all that can be refused before training; the parts have no weights."""
    LoopOptions(**bind(LoopOptions, options["loop"], "loop")).micro_batch(distributed.world_size())
    data = DataOptions(**bind(DataOptions, options["dataset"], "dataset"))
    dataset = open_training_data(replace(data, cache="none"))
    parts = build_for(options, dataset, weights=False)
    construct(EMA, options["ema"], "ema", denoiser=parts.denoiser)
    make(options["optimizer"], OPTIMIZERS, "optimizer", params=parts.denoiser.parameters())
    return dataset, parts


class Run:
    """All objects of a run. `state_dict` and `load_state_dict` cover every one of them, on every process."""

    def __init__(self, options: dict, device: torch.device):
        self.device = device
        data = DataOptions(**bind(DataOptions, options["dataset"], "dataset"))
        self.loop = LoopOptions(**bind(LoopOptions, options["loop"], "loop"))
        self.micro, self.rounds = self.loop.micro_batch(distributed.world_size())
        seed_everything(self.loop.seed)  # the same initial weights on all processes
        dataset = open_training_data(data)
        parts = build_for(options, dataset, self.loop.precision)
        self.dataset, self.encoder, self.loss = dataset, parts.encoder, parts.loss
        if hasattr(self.encoder, "to"):
            self.encoder.to(device)
        self.denoiser = parts.denoiser.to(device).train()
        self.objective = Objective(self.denoiser, self.loss.to(device))
        self.ema = construct(EMA, options["ema"], "ema", denoiser=self.denoiser)
        self.optimizer = make(options["optimizer"], OPTIMIZERS, "optimizer", params=self.objective.parameters())
        scaled = self.loop.precision == "fp16" and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=self.loop.loss_scale, growth_interval=200, enabled=scaled
        )
        self.batches = BatchStream(
            dataset,
            parts.encoder,
            parts.augment,
            self.denoiser.spec,
            device,
            seed=self.loop.seed,
            xflip=data.xflip,
            label_dropout=data.label_dropout,
            workers=data.workers,
            keep_on_device=data.cache == "gpu",
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self.stats = Statistics()
        self.nimg = self.tick = self.tick_start_nimg = 0
        self.elapsed = 0.0
        self.options = {
            "dataset": asdict(data),
            **parts.options,
            "optimizer": resolved(options["optimizer"], self.optimizer),
            "ema": self.ema.recipe["options"],
            "loop": asdict(self.loop),
        }
        seed_everything(self.loop.seed * distributed.world_size() + distributed.rank())

    @property
    def step(self) -> Step:
        """Where training stands, before the next step."""
        return Step(self.nimg, self.loop.total_nimg, self.loop.seed)

    def reset_ema(self) -> None:
        """Start the averages from the present weights."""
        self.ema = construct(EMA, self.options["ema"], "ema", denoiser=self.denoiser)

    def state_dict(self) -> dict:
        """Everything that the rest of the run depends on. All processes must call it together."""
        own = {"random": random_state(self.device), "stats": self.stats.state_dict()}
        return {
            "format": "elucid-state",
            "options": json.dumps(self.options),
            "nimg": self.nimg,
            "position": self.batches.position,
            "tick": self.tick,
            "tick_start_nimg": self.tick_start_nimg,
            "elapsed": self.elapsed,
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": distributed.gather_objects(own),
            "data": self.data_facts(),
        }

    def data_facts(self) -> dict:
        """What must be the same of the data set when a run is resumed, wherever it lies by then."""
        data = self.dataset
        return {
            "images": len(data),
            "resolution": list(data.resolution),
            "channels": data.channels,
            "classes": data.label_dim,
        }

    def resume(self, state: dict) -> None:
        """`load_state_dict` of a state that may be damaged, of another program version, or of other data.

        Raises UserError if it does not fit.
        """
        if state.get("data", self.data_facts()) != self.data_facts():
            raise UserError(
                f"{self.dataset.path} is not the data set of the run to be resumed: {self.data_facts()}, then "
                f"{state['data']}; give that with --data, or start anew with --transfer"
            )
        try:
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise UserError(
                f"the state does not fit this program ({type(error).__name__}: {str(error)[:200]}); resume from "
                "another one, or start anew with --transfer"
            ) from error

    def load_state_dict(self, state: dict) -> None:
        """Undo of `state_dict`. With another number of processes the noise drawn from here on differs, nothing else."""
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.nimg, self.tick, self.tick_start_nimg = state["nimg"], state["tick"], state["tick_start_nimg"]
        self.batches.position, self.elapsed = state["position"], state["elapsed"]
        processes = state["processes"]
        if len(processes) == distributed.world_size():
            own = processes[distributed.rank()]
            set_random_state(own["random"], self.device)
            self.stats.load_state_dict({name: value.to(self.device) for name, value in own["stats"].items()})
        else:
            now = distributed.world_size()
            distributed.print0(
                f"warning: the state is of {len(processes)} processes, this run has {now}: new random numbers"
            )
            seed_everything(hash((self.loop.seed, self.nimg, distributed.rank())))
            for own in processes if distributed.is_main() else ():
                self.stats.add({name: value.to(self.device) for name, value in own["stats"].items()})

    def save_state(self, folder: Path) -> Path:
        """Write `training-state-NNNNNN.pt` (NNNNNN = kimg). All processes must call it together."""
        path = folder / f"training-state-{self.nimg // 1000:06d}.pt"
        state = self.state_dict()
        if distributed.is_main():
            save_state(path, state)
        distributed.barrier()
        return path

    def snapshot(self) -> Snapshot:
        """The averaged denoisers and what sampling from them needs."""
        data = self.dataset
        return Snapshot(
            emas=dict(self.ema.averages),
            # By its class: a plug-in's path or short name need not mean the same on another machine.
            encoder={**self.options["encoder"], "name": kept_name(self.options["encoder"]["name"], self.encoder)},
            dataset={
                "name": data.name,
                "resolution": list(data.resolution),
                "channels": data.channels,
                "label_dim": data.label_dim,
                "class_names": data.class_names,
            },
            options=self.options,
            nimg=self.nimg,
        )

    def save_snapshot(self, folder: Path) -> Path:
        """Write `network-snapshot-NNNNNN.pkl`, in the main process."""
        path = folder / f"network-snapshot-{self.nimg // 1000:06d}.pkl"
        if distributed.is_main():
            save_snapshot(path, self.snapshot())
        distributed.barrier()
        return path


def kept_name(name: str, made) -> str:
    """How a snapshot calls a component: by its short name, or by `module:Name` if it is from outside."""
    return name if name in ENCODERS else made.recipe["class"]


def write_options(folder: Path, options: dict) -> None:
    """`training_options.json`: the resolved options of the run."""
    with write_output(folder / "training_options.json") as file:
        file.write(json.dumps(options, indent=2).encode() + b"\n")
