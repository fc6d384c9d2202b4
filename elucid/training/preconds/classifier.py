"""Classifiers of noisy images, trained with the same loop as denoisers."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Coefficients, Preconditioned, as_levels
from elucid.training.types import Cond, NetSpec


class NoisyClassifier(Preconditioned):
    """classifier(x[B,C,H,W], sigma, cond) -> logits [B,classes] (Dhariwal & Nichol 2021, section 4).

    The input scaling is EDM's: c_in = 1/sqrt(sigma^2 + sigma_data^2), c_noise = ln(sigma)/4. Network outputs
    [B,classes,H,W] are averaged over H and W. The network is not conditioned on labels, since it predicts them.
    Raises UserError for a dataset without labels.
    """

    uses_all_parameters = True

    default_loss = "cross_entropy"

    def __init__(self, model, spec, precision="fp32", sigma_data: float = 0.5):
        super().__init__(model, spec, precision)
        if sigma_data <= 0:
            raise UserError(f"sigma_data={sigma_data} must be positive; EDM uses 0.5")
        self.sigma_data = sigma_data

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        if not spec.label_dim:
            raise UserError("a classifier needs classes; use a dataset with labels and `cond`=1")
        vector = {name: width for name, width in spec.vector.items() if name != "labels"}
        return spec.replace(vector=vector, out_channels=spec.label_dim)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        zero = torch.zeros_like(sigma)
        return Coefficients(zero, zero, 1 / total.sqrt(), sigma.log() / 4)

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Tensor:
        x = x.to(torch.float32)
        out = self.call_network(x, self.coefficients(as_levels(sigma, x)), self.condition(x, cond)).to(torch.float32)
        logits = out.mean(dim=(2, 3)) if out.ndim == 4 else out
        if logits.shape != (len(x), self.spec.out_channels):
            wanted, name = [len(x), self.spec.out_channels], type(self.model).__name__
            raise UserError(f"network {name} returned {list(out.shape)} , expected logits {wanted}")
        return logits
