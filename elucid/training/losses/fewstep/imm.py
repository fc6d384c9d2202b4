"""Inductive moment matching (Zhou et al. 2025, arXiv 2503.07565): a flow map from data, by moments of particles."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import random_state, random_state_kept, set_random_state
from elucid.training.losses.base import Loss, require_denoiser
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.noise.paths import Path, path_of
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step

TINY = 1e-8


class IMM(Loss):
    """w(t) times the squared maximum mean discrepancy of f_st(x_t) and f-_sr(x_r), for s <= r < t, of M `particles`.

    1/M^2 sum_jk [k(y_j, y_k) + k(z_j, z_k) - 2 k(y_j, z_k)] over a group that shares s and t, y = f_st(x_t), z =
    f_sr(x_r) without gradient and with the same dropout masks, x_r between the image and x_t with the same noise;
    k(y, z) = exp(-|y - z| / (D |c_st|)), D numbers in an image, c_st the factor of the network's output in f_st.
    `noise` draws t, s ~ U(t_min, t); r is (eta_max - eta_min) / 2^k below t in eta = b / a, but not below s. w = 1/2
    sigmoid(b - lambda) (-d lambda/dt) a^p / (a^2 + b^2), lambda = ln a^2/b^2, p the `power`. Without `own_pairs` j = k
    is left out: each particle then sees others only, and the gradient at an exact map is 0 for any data. With
    `by_class` only particles of the same labels are compared, else the classes of a group together.

    The training program was never published: this is written from the paper alone. Raises UserError for impossible
    numbers, and for a batch of another size than a multiple of M.
    """

    uses_all_parameters = True
    mean = True
    predicts_images = False
    sampling = {"sampler": {"name": "flow_map"}, "schedule": {"name": "flow_map"}}

    def __init__(
        self,
        noise: NoiseDistribution,
        particles: int = 4,
        k: float = 12.0,
        b: float = 5.0,
        power: float = 1.0,
        own_pairs: bool = True,
        by_class: bool = False,
    ):
        super().__init__()
        if particles < 2:
            raise UserError(f"loss.particles={particles} must be 2 or more; the paper takes 4")
        if not k > 0:
            raise UserError(f"loss.k={k:g} must be above 0: r is 2^-k of the range below t; the paper takes 12 to 15")
        self.noise, self.particles, self.k, self.b, self.power = noise, particles, k, b, power
        self.own_pairs, self.by_class, self.batch_multiple = own_pairs, by_class, particles

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]  # without its own pairs it is an unbiased estimate
        return not self.own_pairs

    def adapt(self, spec: NetSpec) -> NetSpec:
        return spec.with_vector("sigma_to", 1)

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        self.noise.check(denoiser)
        if not isinstance(getattr(denoiser, "process", None), Path) or not hasattr(denoiser, "t_max"):
            kind = type(denoiser).__name__
            raise UserError(f"the loss imm needs times from t_min to t_max, which {kind} has not; use `precond`=imm")

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        count, device = len(batch), batch.images.device
        if count % self.particles:
            raise UserError(
                f"loss.particles={self.particles} does not divide the {count} images of a pass; choose `batch` "
                "and `batch_gpu` that are multiples"
            )
        groups, path = count // self.particles, path_of(denoiser)
        sigma = self.noise.sample(groups, denoiser, device).clamp(denoiser.sigma_min, denoiser.sigma_max)
        t = path.time(sigma)
        sigma_to = path.sigma(denoiser.t_min + (t - denoiser.t_min) * torch.rand_like(t))
        each = [one.repeat_interleave(self.particles, dim=0) for one in (sigma, sigma_to)]
        loss = self.at(denoiser, batch, *each, torch.randn_like(batch.images))
        return LossOutput(loss, {"loss": loss})

    def lower(self, denoiser: Denoiser, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Return the level of r: a constant step in eta, which is sigma up to the scale of the noise."""
        gap = (denoiser.sigma_max - denoiser.sigma_min) / 2**self.k
        return torch.minimum(torch.maximum(sigma - gap, sigma_to), sigma)

    def at(self, denoiser: Denoiser, batch: Batch, sigma: Tensor, sigma_to: Tensor, noise: Tensor) -> Tensor:
        """Return the loss [B] at levels [B,1,1,1] that are the same within each group, with unit noise [B,C,H,W]."""
        images, device, state = batch.images, batch.images.device, random_state(batch.images.device)
        x, lower = images + sigma * noise, self.lower(denoiser, sigma, sigma_to)
        ends = moved(denoiser, x, sigma, sigma_to, batch)
        with torch.no_grad(), random_state_kept(device):
            set_random_state(state, device)
            targets = moved(denoiser, images + lower * noise, lower, sigma_to, batch)
        scale = path_of(denoiser).scales(sigma_to)[0] * (1 - sigma_to / sigma) * denoiser.coefficients(sigma).c_out
        scale = scale.abs().clamp_min(TINY)[:: self.particles].reshape(-1, 1, 1)
        labels = batch.cond.get("labels") if self.by_class else None
        return self.weight(denoiser, sigma).reshape(-1) * self.discrepancy(ends, targets, scale, labels)

    def discrepancy(self, ends: Tensor, targets: Tensor, scale: Tensor, labels: Tensor | None) -> Tensor:
        """Return each image's share of the discrepancy of its group [B], the mean over a group being the group's."""
        particles, numbers = self.particles, ends[0].numel()
        y, z = (one.reshape(-1, particles, numbers) for one in (ends, targets))
        counts = torch.ones(len(y), particles, particles, dtype=y.dtype, device=y.device)
        if labels is not None:
            own = labels.reshape(-1, particles, labels.shape[-1])
            counts = (own[:, :, None] == own[:, None]).all(dim=-1).to(y.dtype)
        if not self.own_pairs:
            counts = counts * (1 - torch.eye(particles, dtype=y.dtype, device=y.device))
        counts = counts / counts.sum(dim=2, keepdim=True).clamp_min(1)

        def kernel(one: Tensor, other: Tensor) -> Tensor:
            squares = (one[:, :, None] - other[:, None]).square().sum(dim=-1)
            # The root's derivative at 0 is infinite, where that of max(|y - z|, epsilon) is 0.
            distance = squares.clamp_min(TINY**2).sqrt()
            return torch.exp(-distance / (numbers * scale))

        pairs = kernel(y, y) + kernel(z, z) - 2 * kernel(y, z)
        return (pairs * counts).sum(dim=2).reshape(-1)

    def weight(self, denoiser: Denoiser, sigma: Tensor) -> Tensor:
        """Return w(t) at a noise level, in its shape."""
        path = path_of(denoiser)
        a, b = path.scales(sigma)
        slope = 2 * path.wronskian(path.time(sigma)) / (a * b)  # -d lambda/dt
        return 0.5 * (self.b - 2 * (a / b).log()).sigmoid() * slope * a**self.power / (a**2 + b**2)


def moved(denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_to: Tensor, batch: Batch) -> Tensor:
    """Return f_st(x_t) [B,C,H,W] for x = x_t / a: where the flow map ends, in the scale of the path."""
    x0 = denoiser(x, sigma, {**batch.cond, "sigma_to": sigma_to}).x0
    a, _ = path_of(denoiser).scales(sigma_to)
    return a * (x0 + sigma_to / sigma * (x - x0))
