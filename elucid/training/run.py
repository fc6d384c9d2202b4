"""A training run: its components, and how they are saved and resumed exactly."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.torch_utils import distributed
from elucid.torch_utils.determinism import prepare_cublas
from elucid.torch_utils.parallel import full_state
from elucid.torch_utils.rng import random_state, seed_everything, set_random_state
from elucid.torch_utils.sharding.states import fitted
from elucid.torch_utils.signals import StopRequest
from elucid.torch_utils.stats import Statistics
from elucid.training.config.build import Components
from elucid.training.config.check import build_for, require_multiple
from elucid.training.config.data import open_training_data
from elucid.training.config.settings import DataOptions, LoopOptions, eval_options
from elucid.training.data.loading.order import Shuffled
from elucid.training.data.loading.stream import BatchStream
from elucid.training.divergence import Divergence
from elucid.training.losses.base import require_no_forward_derivative
from elucid.training.networks.checkpointing import checkpoint_regions
from elucid.training.networks.kernels.choice import choose_kernels
from elucid.training.networks.kernels.dropout import keep_torchs_masks
from elucid.training.objective import Objective
from elucid.training.optim.optimizers import make_optimizer
from elucid.training.optim.phase import PhaseOptimizer
from elucid.training.preconds.base import Preconditioned
from elucid.training.registry.components import make, resolved
from elucid.training.registry.names import TABLES
from elucid.training.sharded import ShardedRun
from elucid.training.snapshots.snapshot import Snapshot
from elucid.training.snapshots.transfer import load_teacher, transfer
from elucid.training.types import Step

STATE_VERSION = 2


class Run:
    """Holds all objects of a training run. `state_dict` and `load_state_dict` cover all of them, on all processes.

    `source` is a snapshot to take initial weights from; `transferred` then tells which of them fitted. `log(text)`
    logs a line.
    """

    def __init__(self, options: dict, device: torch.device, source: Snapshot | None = None):
        self.device = device
        data = DataOptions(**bind(DataOptions, options["dataset"], "dataset"))
        self.loop = LoopOptions(**bind(LoopOptions, options["loop"], "loop"))
        if self.loop.deterministic:
            prepare_cublas()
        self.micro_batch_size, self.grad_accum_steps = self.loop.micro_batch(distributed.world_size())
        self.log: Callable[[str], None] = distributed.print0
        seed_everything(self.loop.seed)  # same initial weights on all processes
        self.dataset = open_training_data(data)
        self.shard_group = self.loop.shard_group(distributed.world_size())
        skeleton = self.shards and not distributed.is_main()  # the main process sends the weights
        parts = build_for(options, self.dataset, self.loop.precision, skeleton=skeleton)
        require_multiple(parts.loss, self.micro_batch_size)
        self._place_model(parts, source)
        self._make_optimizers(options)
        self.sampler, self.schedule = make(options["sampler"], "sampler"), make(options["schedule"], "schedule")
        self.stream = BatchStream(
            self.dataset,
            parts.transforms,
            device,
            seed=self.loop.seed,
            xflip=data.xflip,
            workers=data.workers,
            keep_on_device=data.cache == "gpu",
            gpu_share=data.gpu_share,
            prefetch=data.prefetch,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self.stats = Statistics()
        self.index = self.nimg = self.tick = self.tick_start_nimg = 0
        self.elapsed = 0.0
        self.stop = StopRequest()
        self.divergence = Divergence(self.loop.max_bad_steps, lambda text: self.log(text))
        self.options = self._resolved_options(options, data, parts)
        seed_everything(self.loop.seed * distributed.world_size() + distributed.rank())

    def _place_model(self, parts: Components, source: Snapshot | None) -> None:
        """Move the model and its loss to the device, take weights from `source`, and let the loss set itself up."""
        device = self.device
        self.encoder = parts.encoder.to(device)
        self.denoiser, self.loss = parts.denoiser.train(), parts.loss
        if self.loop.channels_last is False:  # also of runs of earlier versions (`stored_options`)
            keep_torchs_masks(self.denoiser)
        if self.shards:
            require_no_forward_derivative(self.loss)
        else:
            self.denoiser, self.loss = self.denoiser.to(device), self.loss.to(device)
            chosen = self.loop.channels_last, self.loop.fused_kernels, self.loop.winograd
            choose_kernels(self.denoiser.model, self.denoiser.compute_dtype, *chosen)
        self.transferred = transfer(source, self.denoiser) if source is not None else None
        self.loss.setup(self.denoiser, lambda path: load_teacher(path, device, self.denoiser.precision))
        self.objective = Objective(self.denoiser, self.loss)
        if self.loop.checkpointing:
            checkpoint_regions(self.denoiser.model)
        self.sharded = ShardedRun(self.objective, device, self.shard_group) if self.shards else None
        if self.sharded is None:
            self.loss.to(device)  # what the setup has made

    def _make_optimizers(self, options: dict) -> None:
        """Create what changes the weights: EMA, learning-rate schedule, loss scaler, an optimizer for each phase."""
        denoiser = self.sharded.stand_in() if self.sharded else self.denoiser
        self.ema = make(options["ema"], "ema", "ema", denoiser=denoiser)
        if self.sharded is not None:
            self.sharded.adopt(self.ema)
        self.lr_schedule = make(options["lr_schedule"], "lr_schedule")
        scaled = self.loop.precision == "fp16" and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=self.loop.loss_scale, growth_interval=200, enabled=scaled
        )
        self.optimizers = {phase: self._optimizer(options["optimizer"], phase) for phase in self.loss.all_phases}

    def _optimizer(self, component: dict, phase: str) -> PhaseOptimizer:
        named = list(self.loss.parameters_of(self.denoiser, phase))
        if not named:
            raise UserError(f"loss {type(self.loss).__name__} has no parameters to train in phase {phase!r}")
        # Runs of earlier versions (`stored_options`) keep their kernel in float32 on a CPU, and so their roundings.
        fused = self.denoiser.compute_dtype != torch.float32 or self.loop.channels_last is not False
        optimizer = make_optimizer({**component, **self.loss.optimizer_options(phase)}, named, fused)
        loss = type(self.loss).__name__
        return PhaseOptimizer(optimizer, self.lr_schedule, named, self.scaler, self.loop.max_grad_norm, phase, loss)

    def _resolved_options(self, options: dict, data: DataOptions, parts: Components) -> dict:
        """Return the options of the run with all defaults filled in, as snapshots and states store them."""
        main = self.optimizers.get("main") or next(iter(self.optimizers.values()))
        scoring = eval_options(options)
        return {
            "dataset": asdict(data),
            **parts.options,
            "optimizer": resolved(main.optimizer),
            "lr_schedule": resolved(self.lr_schedule),
            "ema": resolved(self.ema),
            "sampler": resolved(self.sampler),
            "schedule": resolved(self.schedule),
            "loop": asdict(self.loop),
            "eval": asdict(scoring) if scoring else {},
            "hooks": options.get("hooks", []),
            "loggers": options.get("loggers", []),
        }

    @property
    def shards(self) -> bool:
        """Whether processes share out the model, and each has a part of it."""
        return self.shard_group > 1

    @property
    def step(self) -> Step:
        """Training progress before the next step."""
        return Step(self.index, self.nimg, self.loop.total_nimg, self.loop.seed, self.loop.batch_size)

    @property
    def kimg_label(self) -> str:
        """Images seen in thousands, as used in file names; with decimals if a tick is shorter than 1 kimg."""
        decimals = f".{self.nimg % 1000:03d}" if self.loop.tick_kimg < 1 else ""
        return f"{self.nimg // 1000:06d}{decimals}"

    def state_dict(self) -> dict:
        """Return everything that the rest of the run depends on. All processes must call it together."""
        own = {"random": random_state(self.device), "stats": self.stats.state_dict()}
        return {
            "format": "elucid-state",
            "version": STATE_VERSION,
            "options": json.dumps(self.options),
            "index": self.index,
            "nimg": self.nimg,
            "position": self.stream.position,
            "order": self.stream.order,
            "tick": self.tick,
            "tick_start_nimg": self.tick_start_nimg,
            "elapsed": self.elapsed,
            "objective": full_state(self.objective),
            "ema": self.ema.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "divergence": self.divergence.state_dict(),
            "processes": distributed.gather_objects(own),
            "data": self.data_facts(),
        }

    def data_facts(self) -> dict:
        """Return the properties of the dataset that must not change when a run is resumed; its path may."""
        data = self.dataset
        return {
            "images": len(data),
            "resolution": list(data.resolution),
            "channels": data.channels,
            "classes": data.label_dim,
        }

    def resume(self, state: dict) -> None:
        """Load a state that may be damaged or come from another program version or dataset.

        Raises UserError if it does not fit this run.
        """
        version = state.get("version", 1)
        if version not in range(1, STATE_VERSION + 1):
            raise UserError(f"state format {version!r}; this program reads up to {STATE_VERSION}: update it")
        if state.get("data", self.data_facts()) != self.data_facts():
            raise UserError(
                f"{self.dataset.path} is not the dataset of the run to be resumed: it has {self.data_facts()}, the "
                f"run had {state['data']}; pass the original with `data`, or start a new run with `transfer`"
            )
        try:
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise UserError(
                f"the state does not fit this program ({type(error).__name__}: {str(error)[:200]}); resume from "
                "another one, or start a new run with `transfer`"
            ) from error

    def load_state_dict(self, state: dict) -> None:
        """Restore a `state_dict`. With a different number of processes, only the noise drawn from here on differs."""
        state = fitted(state, {} if self.sharded is None else self.sharded.placed(self.optimizers))
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        # Format 1 had a single optimizer and did not count steps.
        optimizers = state["optimizers"] if "optimizers" in state else {"main": state["optimizer"]}
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[phase])
        self.scaler.load_state_dict(state["scaler"])
        self.nimg, self.tick, self.tick_start_nimg = state["nimg"], state["tick"], state["tick_start_nimg"]
        self.index = state.get("index", self.nimg // self.loop.batch_size)
        self.stream.position, self.elapsed = state["position"], state["elapsed"]
        self.stream.use_order(state.get("order", Shuffled.name))  # older states name none
        self.divergence.load_state_dict(state.get("divergence", {}))
        processes = state["processes"]
        if len(processes) == distributed.world_size():
            own = processes[distributed.rank()]
            set_random_state(own["random"], self.device)
            self.stats.load_state_dict({name: value.to(self.device) for name, value in own["stats"].items()})
        else:
            now = distributed.world_size()
            distributed.print0(
                f"warning: the state was saved by {len(processes)} processes, this run has {now}: reseeding the random "
                "number generators"
            )
            seed_everything(hash((self.loop.seed, self.nimg, distributed.rank())))
            for own in processes if distributed.is_main() else ():
                self.stats.add({name: value.to(self.device) for name, value in own["stats"].items()})

    @property
    def averages(self) -> dict[str, Preconditioned]:
        """The averages by name, to sample from; those of a sharded run have weights within `gathered` only."""
        return self.ema.averages if self.sharded is None else self.sharded.averages

    def gathered(self, name: str, on_main: bool = False) -> AbstractContextManager[None]:
        """Context in which `averages[name]` has its weights, perhaps `on_main` only. All must enter it together."""
        return nullcontext() if self.sharded is None else self.sharded.gathered(name, on_main)

    def snapshot(self) -> Snapshot | None:
        """Return the EMA denoisers and everything needed to sample from them, on the main process.

        All processes must call it together. The denoisers of a sharded run are copies on the host.
        """
        emas = dict(self.ema.averages) if self.sharded is None else self.sharded.on_host()
        if not distributed.is_main():
            return None
        data = self.dataset
        parts = {"encoder": self.encoder, "sampler": self.sampler, "schedule": self.schedule}
        return Snapshot(
            emas=emas,
            # External components by their class: a plugin's path or short name may differ on another machine.
            **{kind: {**self.options[kind], "name": stored_name(kind, made)} for kind, made in parts.items()},
            dataset={
                "name": data.name,
                "resolution": list(data.resolution),
                "channels": data.channels,
                "label_dim": data.label_dim,
                "class_names": data.class_names,
                "class_counts": data.class_counts,
                **({"vector_labels": True} if data.vector_labels else {}),
            },
            options=self.options,
            nimg=self.nimg,
        )


def stored_name(kind: str, made) -> str:
    """Return the name of a component in a snapshot: its short name, or `module:Name` if it is external."""
    name = made.config["name"]
    return name if name in TABLES[kind] else made.config["class"]


def write_options(folder: Path, options: dict) -> None:
    """Write the resolved options of the run to `training_options.json`."""
    with write_output(folder / "training_options.json") as file:
        file.write(json.dumps(options, indent=2).encode() + b"\n")
