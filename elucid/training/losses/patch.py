"""Patch Diffusion (Wang et al. 2023, arXiv 2304.12526): any loss on random crops with their coordinates."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, LossWrapper, with_total
from elucid.training.preconds.base import Denoiser
from elucid.training.transforms.coordinates import coordinate_grid
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class PatchLoss(LossWrapper):
    """Computes `base` on random crops of size R/4, R/2 or R, with probability (1-p) 2/5, (1-p) 3/5, p, p = `real_p`.

    Latents are cropped to R/2 or R with probability 1-p, p. A step has one crop size on all processes and R/size times
    the usual number of images. `progressive` goes through the sizes in this order during training instead of drawing
    them. `cond["coords"]` [B,2,H,W] gives the network the position of the crop (x, then y, each in [-1,1]).
    """

    uses_all_parameters = True

    def __init__(self, base: Loss, real_p: float = 0.5, progressive: bool = False):
        super().__init__(base)
        if not 0 <= real_p <= 1:
            raise UserError(f"real_p={real_p} is a probability; it must be between 0 and 1")
        self.real_p, self.progressive = real_p, progressive
        self.divisors: tuple[int, ...] = (4, 2, 1)

    def adapt(self, spec: NetSpec) -> NetSpec:
        self.divisors = (2, 1) if spec.latent else (4, 2, 1)
        return super().adapt(spec).with_spatial("coords", 2)

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if isinstance(self.base, PatchLoss):
            raise UserError("patch(patch(...)): crops of crops are not supported; use patch once")
        if self.needs_pixels and denoiser.spec.latent:
            raise UserError("patch: crops of latents have no pixels, which the loss inside needs; leave patch out")
        divisor = 2 ** getattr(denoiser.model, "halvings", 0)
        sizes = self.sizes(denoiser.spec.resolution)
        if getattr(denoiser.model, "fixed_size", False) and sizes != [denoiser.spec.resolution]:
            name = type(denoiser.model).__name__
            raise UserError(f"patch: a {name} takes images of one size only; use a U-Net (`arch`), or another `loss`")
        for height, width in sizes:
            if not height or not width:
                rows, columns = denoiser.spec.resolution
                raise UserError(f"images of {rows}x{columns} are too small for patches; use `loss` without patch")
            if height % divisor or width % divisor:
                raise UserError(
                    f"patches of {height}x{width} are not divisible by {divisor}, the network's downsampling factor; "
                    "use fewer levels (`cres`) or larger images"
                )

    def probabilities(self) -> list[float]:
        """Return the probability of each crop size, smallest first."""
        small = 1 - self.real_p
        return [small, self.real_p] if len(self.divisors) == 2 else [small * 2 / 5, small * 3 / 5, self.real_p]

    def sizes(self, resolution: tuple[int, int]) -> list[tuple[int, int]]:
        """Return height and width of each crop size with nonzero probability, smallest first."""
        chances = zip(self.divisors, self.probabilities(), strict=True)
        return [(resolution[0] // divisor, resolution[1] // divisor) for divisor, chance in chances if chance > 0]

    def divisor(self, step: Step) -> int:
        """Return R/size for this step, the same on all processes."""
        draw = step.progress if self.progressive else step.shared_rng("patch size").random()
        total = 0.0
        for divisor, probability in zip(self.divisors, self.probabilities(), strict=True):
            total += probability
            if draw < total:
                return divisor
        return self.divisors[-1]

    def image_multiplier(self, step: Step) -> int:
        return self.divisor(step) * super().image_multiplier(step)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        divisor = self.divisor(step)
        height, width = batch.images.shape[2:]
        crops = random_crops(with_coordinates(batch), height // divisor, width // divisor)
        return with_total(self.base(denoiser, crops, step), denoiser, crops.images, step)


def with_coordinates(batch: Batch) -> Batch:
    """Add cond["coords"] to the batch, unless augmentation has already added and transformed them."""
    if "coords" in batch.cond:
        return batch
    grid = coordinate_grid(*batch.images.shape[2:], device=batch.images.device)
    cond = {**batch.cond, "coords": grid.expand(len(batch), -1, -1, -1)}
    return Batch(batch.images, cond, batch.mirrored, batch.raw)


def random_crops(batch: Batch, height: int, width: int) -> Batch:
    """Crop each image and its spatial conditions at a random position (rows are drawn first)."""
    count, (full_height, full_width) = len(batch), batch.images.shape[2:]
    if (height, width) == (full_height, full_width):
        return batch
    device = batch.images.device
    rows = torch.randint(full_height - height + 1, (count,), device=device)
    columns = torch.randint(full_width - width + 1, (count,), device=device)
    return crop(batch, rows, columns, height, width)


def crop(batch: Batch, rows: Tensor, columns: Tensor, height: int, width: int) -> Batch:
    """Crop a batch to one size, with upper left corners at (rows[B], columns[B])."""
    device = batch.images.device
    i = (rows[:, None] + torch.arange(height, device=device))[:, None, :, None]
    j = (columns[:, None] + torch.arange(width, device=device))[:, None, None, :]
    full = batch.images.shape[2:]

    def cut(maps: Tensor) -> Tensor:
        batch_index = torch.arange(len(maps), device=device)[:, None, None, None]
        channel = torch.arange(maps.shape[1], device=device)[None, :, None, None]
        return maps[batch_index, channel, i, j]

    cond = {key: cut(v) if v.ndim == 4 and v.shape[2:] == full else v for key, v in batch.cond.items()}
    return Batch(cut(batch.images), cond)
