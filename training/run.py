"""A run: everything that trains, and how it is saved and taken up again exactly. Read next: `loop.py`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from torch_utils import distributed
from torch_utils.checkpoint import save_state
from torch_utils.rng import random_state, seed_everything, set_random_state
from torch_utils.stats import Statistics
from training.batches import BatchStream
from training.build import build
from training.dataset import cached, open_dataset
from training.ema import EMA
from training.objective import Objective
from training.snapshot import Snapshot, save_snapshot
from training.types import NetSpec, Step

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass
class LoopOptions:
    """How long, in what portions and in what precision a run trains; the flags of train.py say what each means."""

    batch_size: int = 512
    batch_gpu: int | None = None
    duration_mimg: float = 200
    seed: int = 0
    precision: str = "fp32"
    loss_scale: float = 1.0
    compile: bool = False
    bench: bool = True
    tick_kimg: float = 50
    snapshot_ticks: int | None = 50
    state_ticks: int | None = 500
    grid_images: int = 64

    @property
    def total_nimg(self) -> int:
        return round(self.duration_mimg * 1e6)

    def micro_batch(self, world_size: int) -> tuple[int, int]:
        """Images per process and forward, and forwards per step. Raises UserError naming batches that do divide."""
        batch, micro = self.batch_size, self.batch_gpu
        if batch % world_size:
            below, above = batch // world_size * world_size, -(-batch // world_size) * world_size
            near = f"{above}" if below == 0 else f"{below} or {above}"
            raise UserError(f"--batch={batch} does not divide over {world_size} processes; the nearest that do: {near}")
        share = batch // world_size
        micro = share if micro is None or micro > share else micro
        if share % micro:
            divisors = [n for n in range(1, share + 1) if share % n == 0]
            near = sorted(sorted(divisors, key=lambda n: (abs(n - micro), n))[:2])
            choices = " or ".join(map(str, near))
            raise UserError(
                f"--batch-gpu={micro} does not divide the {share} images per process (--batch={batch}); "
                f"the nearest that do: {choices}"
            )
        return micro, share // micro


class Adam(torch.optim.Adam):
    """Adam whose learning rate ramps up over `lr_rampup_kimg` and, over the last `lr_rampdown` of training, to zero."""

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas=(0.9, 0.999),
        eps: float = 1e-8,
        lr_rampup_kimg: float = 10000,
        lr_rampdown: float = 0,
    ):
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps)
        self.peak_lr, self.lr_rampup_kimg, self.lr_rampdown = lr, lr_rampup_kimg, lr_rampdown

    def set_lr(self, step: Step) -> None:
        """Set the learning rate of this step."""
        up = min(step.nimg / max(self.lr_rampup_kimg * 1000, 1e-8), 1.0)
        down = min((1 - step.progress) / self.lr_rampdown, 1.0) if self.lr_rampdown else 1.0
        for group in self.param_groups:
            group["lr"] = self.peak_lr * up * down


def open_training_data(options: dict, device: torch.device):
    """The data set of a run, cached as its options say. The local main process fills the cache, the others wait."""
    data = dict(options)
    cache = data.pop("cache", "disk")
    use_labels = data.get("use_labels", False)
    dataset = open_dataset(data["path"], use_labels=use_labels, max_size=data.get("max_size"), seed=data.get("seed", 0))
    if dataset.has_labels and not use_labels:
        distributed.print0("warning: the data set has labels but --cond is off: they are not used")
    if cache in ("disk", "gpu"):
        if distributed.local_rank() == 0:
            dataset = cached(dataset, None)
        distributed.barrier()
        if distributed.local_rank() != 0:
            dataset = cached(dataset, None, progress=False)
    return dataset


def dataset_spec(dataset) -> NetSpec:
    """What the data set alone asks of a network."""
    return NetSpec(resolution=dataset.resolution, image_channels=dataset.channels, label_dim=dataset.label_dim)


class Run:
    """All objects of a run. `state_dict` and `load_state_dict` cover every one of them, on every process."""

    def __init__(self, options: dict, device: torch.device):
        self.device = device
        self.loop = LoopOptions(**options["loop"])
        self.micro, self.rounds = self.loop.micro_batch(distributed.world_size())
        seed_everything(self.loop.seed)  # the same initial weights on all processes
        dataset = open_training_data(options["dataset"], device)
        parts = build(options, dataset_spec(dataset), self.loop.precision)
        self.dataset, self.encoder, self.loss = dataset, parts.encoder, parts.loss
        self.denoiser = parts.denoiser.to(device).train()
        self.objective = Objective(self.denoiser, self.loss.to(device))
        self.ema = EMA(self.denoiser, **options["ema"])
        optimizer = {key: value for key, value in options["optimizer"].items() if key != "name"}
        self.optimizer = Adam(self.objective.parameters(), **optimizer)
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
            xflip=options["dataset"].get("xflip", False),
            label_dropout=options["dataset"].get("label_dropout", 0.0),
            workers=options["dataset"].get("workers", 1),
            keep_on_device=options["dataset"].get("cache") == "gpu",
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self.stats = Statistics()
        self.nimg = self.tick = self.tick_start_nimg = 0
        self.elapsed = 0.0
        self.options = {**options, **parts.options, "loop": asdict(self.loop)}
        seed_everything(self.loop.seed * distributed.world_size() + distributed.rank())

    @property
    def step(self) -> Step:
        """Where training stands, before the next step."""
        return Step(self.nimg, self.loop.total_nimg, self.loop.seed)

    def reset_ema(self) -> None:
        """Start the averages from the present weights."""
        self.ema = EMA(self.denoiser, **self.options["ema"])

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
        }

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
            encoder=self.options["encoder"],
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


def write_options(folder: Path, options: dict) -> None:
    """`training_options.json`: the resolved options of the run."""
    with atomic_write(folder / "training_options.json") as file:
        file.write(json.dumps(options, indent=2).encode() + b"\n")
