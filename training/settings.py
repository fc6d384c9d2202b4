"""What a run is told beyond its components: the data set, and how long and in what portions to train.

Read next: `run.py`.
"""

from dataclasses import dataclass

from dnnlib.errors import UserError

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass
class DataOptions:
    """The data set of a run and how its batches are made; the flags of train.py say what each means."""

    path: str
    use_labels: bool = False
    xflip: bool = False
    label_dropout: float = 0.0
    cache: str = "disk"
    workers: int = 1
    max_size: int | None = None
    subset_seed: int = 0


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
