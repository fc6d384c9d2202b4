"""EDM2's sampler: EDM's, with the state in single precision."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.samplers.base import Noise
from elucid.training.samplers.churn import Churn
from elucid.training.samplers.edm import EDMSampler

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ChurnWhereNeeded(Churn):
    """Churn that draws noise only at steps that add some, so that `S_min` and `S_max` decide what a seed draws."""

    def noise_to_add(self, x: Tensor, sigma: Tensor, sigma_hat: Tensor, noise: Noise) -> Tensor:
        """Return the noise that takes x from sigma to sigma_hat."""
        if not bool((sigma_hat > sigma).any()):
            return torch.zeros_like(x)
        return super().noise_to_add(x, sigma, sigma_hat, noise)


class EDM2Sampler(EDMSampler):
    """EDM's sampler with x and the noise levels in `dtype`, float32 or float64, by default in 32 steps.

    Noise is drawn only at steps with sigma in [S_min, S_max]. As Karras et al. 2024 sample (arXiv 2312.02696).
    """

    default_steps = 32

    def __init__(
        self,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float | None = None,
        S_noise: float = 1.0,
        dtype: str = "float32",
    ):
        super().__init__()
        self.churn = ChurnWhereNeeded(S_churn, S_min, S_max, S_noise)
        if dtype not in DTYPES:
            raise UserError(f"sampler.dtype={dtype!r} is unknown; choose from {', '.join(DTYPES)}")
        self.dtype = DTYPES[dtype]
