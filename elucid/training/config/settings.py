"""Options of the dataset, of the training loop, and of scoring while training."""

import math
import re
from dataclasses import dataclass

from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CACHES = ("none", "disk", "gpu")
ON_FULL_DISK = ("stop", "continue")
LARGEST_SEED = 2**32 - 1
LARGEST_BATCH = 2**26
AUTO = "auto"
"""Micro-batch that is the largest that fits into memory."""


@dataclass
class DataOptions:
    """Options of the dataset and its batches; `train.py --help` explains them."""

    path: str
    reader: dict | str | None = None
    use_labels: bool = False
    xflip: bool = False
    label_dropout: float = 0.0
    cache: str = "disk"
    gpu_share: float = 0.5
    prefetch: int = 2
    workers: int = 1
    max_size: int | None = None
    subset_seed: int = 0
    cond_images: str | None = None
    cond_enlarge: bool = False

    def __post_init__(self):
        require("dataset.cache", self.cache, CACHES)
        require("dataset.label_dropout", self.label_dropout, (0, 1))
        require("dataset.gpu_share", self.gpu_share, (0, 1))
        require("dataset.prefetch", self.prefetch, (0, 1000))
        require("dataset.workers", self.workers, (1, math.inf))
        require("dataset.subset_seed", self.subset_seed, (0, LARGEST_SEED))


@dataclass
class LoopOptions:
    """Options of the training loop, such as batch size, duration and precision; `train.py --help` explains them."""

    batch_size: int = 512
    batch_gpu: int | str | None = None
    duration_mimg: float = 200
    seed: int = 0
    precision: str = "fp32"
    loss_scale: float = 1.0
    compile: bool = False
    shard: int | bool = 0
    checkpointing: bool = False
    bench: bool = True
    deterministic: bool = False
    channels_last: bool | None = None
    fused_kernels: bool | None = None
    winograd: bool | None = None
    tick_kimg: float = 50
    snapshot_ticks: int | None = 50
    state_ticks: int | None = 500
    grid_images: int = 64
    max_grad_norm: float | None = None
    max_bad_steps: int = 10
    keep_states: int | None = None
    keep_snapshots: int | None = None
    snapshot_precision: str = "fp32"
    milestone_kimg: float | None = None
    on_full_disk: str = "stop"

    def __post_init__(self):
        require("loop.precision", self.precision, PRECISIONS)
        self.bench = self.bench and not self.deterministic
        require("loop.duration_mimg", self.duration_mimg, (1e-6, 10**9))
        require("loop.seed", self.seed, (0, LARGEST_SEED))
        require("loop.on_full_disk", self.on_full_disk, ON_FULL_DISK)
        require("loop.snapshot_precision", self.snapshot_precision, ("fp32", "fp16"))
        for name in ("batch_size", "batch_gpu"):
            value = getattr(self, name)
            if isinstance(value, str) and (name, value) != ("batch_gpu", AUTO):
                raise UserError(f"loop.{name}={value!r} must be a number of images")
            require(f"loop.{name}", None if value == AUTO else value, (1, LARGEST_BATCH))
        for name in ("max_bad_steps", "keep_states", "keep_snapshots"):
            require(f"loop.{name}", getattr(self, name), (1, math.inf))
        for name in ("tick_kimg", "loss_scale", "max_grad_norm", "milestone_kimg"):
            require(f"loop.{name}", getattr(self, name), (1e-9, math.inf))
        self.shard = int(self.shard)
        for name in ("shard", "snapshot_ticks", "state_ticks", "grid_images"):
            require(f"loop.{name}", getattr(self, name), (0, math.inf))
        if self.shard and self.precision == "fp16":
            raise UserError("`shard` and `precision`=fp16 exclude each other; use bf16, which needs no loss scale")
        if self.shard and self.channels_last:
            raise UserError("`shard` and loop.channels_last exclude each other; leave one out")
        if self.fused_kernels and (self.shard or self.channels_last is False):
            other = "`shard`" if self.shard else "loop.channels_last=false"
            raise UserError(f"loop.fused_kernels=true and {other} exclude each other; leave one out")
        if self.winograd and (self.shard or self.channels_last):
            other = "`shard`" if self.shard else "loop.channels_last=true"
            raise UserError(f"loop.winograd=true and {other} exclude each other; leave one out")
        if self.shard and self.compile:
            raise UserError("`shard` and `compile` exclude each other; leave one out")

    @property
    def total_nimg(self) -> int:
        return round(self.duration_mimg * 1e6)

    def shard_group(self, world_size: int) -> int:
        """Return how many processes share out the model: 1 if each has it whole.

        `shard` is 0 for none, 1 for all processes, or a number of them. Raises UserError if that does not divide all.
        """
        size = world_size if self.shard == 1 else self.shard or 1
        if world_size % size and world_size > 1:
            raise UserError(f"`shard`={size}: the {world_size} processes cannot be divided into groups of {size}")
        return min(size, world_size)

    def micro_batch(self, world_size: int) -> tuple[int, int]:
        """Return the micro-batch size and the number of gradient accumulation steps per process.

        With "auto" they are those of a single pass, before sizes are tried. Raises UserError, naming the nearest valid
        sizes, if `batch_size` or `batch_gpu` does not divide evenly.
        """
        batch, micro = self.batch_size, self.batch_gpu
        if batch % world_size:
            below, above = batch // world_size * world_size, -(-batch // world_size) * world_size
            near = f"{above}" if below == 0 else f"{below} or {above}"
            raise UserError(f"`batch`={batch} is not divisible by {world_size} processes; the nearest that are: {near}")
        share = batch // world_size
        micro = share if not isinstance(micro, int) or micro > share else micro
        if share % micro:
            divisors = [n for n in range(1, share + 1) if share % n == 0]
            nearest = sorted(sorted(divisors, key=lambda n: (abs(n - micro), n))[:2])
            raise UserError(
                f"`batch_gpu`={micro} does not divide the {share} images per process (`batch`={batch}); "
                f"the nearest that do: {' or '.join(map(str, nearest))}"
            )
        return micro, share // micro


@dataclass
class EvalOptions:
    """Options of scoring while training: `num` samples every `ticks` ticks and at the end, against the training data.

    `metrics`, `detector` and `detector_weights` are those of fid.py; the first metric decides which snapshot is best,
    and `target` is a value of it. `ref` replaces the training data, of which at most `ref_num` images are used. Samples
    are drawn as the run does, but for `steps`, `guidance` (classifier-free) and `ema`.
    """

    num: int
    ticks: int = 0
    metrics: str = "kid"
    detector: str | None = None
    detector_weights: str | None = None
    ref: str | None = None
    ref_num: int | None = None
    steps: int | None = None
    guidance: float | None = None
    ema: str | float | None = None
    batch: int = 64
    target: float | None = None

    def __post_init__(self):
        self.ema = f"{self.ema:g}" if isinstance(self.ema, int | float) else self.ema
        for name, least in {"num": 2, "ticks": 0, "ref_num": 2, "steps": 1, "batch": 1}.items():
            require(f"eval.{name}", getattr(self, name), (least, math.inf))


def parse_eval(text: str) -> dict[str, int]:
    """Convert `5k@25` to {"num": 5000, "ticks": 25}; without @ the run is scored at its end only."""
    match = re.fullmatch(r"(\d+)(k?)(?:@(\d+))?", text.strip())
    if match is None:
        raise UserError(f"`eval`={text} is not of the form 5k@25: 5000 images every 25 ticks")
    return {"num": int(match[1]) * (1000 if match[2] else 1), "ticks": int(match[3] or 0)}


def eval_options(options: dict) -> EvalOptions | None:
    """Return how a run is scored while it trains, or None. Raises UserError for a mistake in its options."""
    given = options.get("eval") or {}
    if given and "num" not in given:
        raise UserError(f"`set` eval.{next(iter(given))}: how many images are to be scored? Give `eval`=5k@25, too")
    return EvalOptions(**bind(EvalOptions, given, "eval")) if given else None


def require(option: str, value, allowed: tuple) -> None:
    """Raise UserError unless the value is None, one of the allowed strings, or within the range of two numbers."""
    if value is None:
        return
    if isinstance(allowed[0], str):
        fine, words = value in allowed, f"one of {', '.join(allowed)}"
    else:
        low, high = allowed
        fine = low <= value <= high
        words = f"{low} or more" if high == math.inf else f"from {low} to {high}"
    if not fine:
        raise UserError(f"{option}={value!r} must be {words}")
