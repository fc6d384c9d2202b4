"""The small network that the vectors of losses of few steps were recorded with."""

import torch
from torch import nn

from tests import vectors


class Tiny(nn.Module):
    """W3 tanh(W2 m tanh(W1 x + T [c_noise, second number] + L labels) + b), the second being `sigma_to`, else 0.

    m is the `mask` of the case's dropout, if it has one; `factor` multiplies the weights.
    """

    def __init__(self, case: dict, factor: float = 1.0):
        super().__init__()
        self.weights, self.mask = nn.ParameterDict(), None
        for name, shape in case["parameters"].items():
            if not name.startswith("lv"):
                value = vectors.formula(case["salt"], name, shape)
                self.weights[name.replace(".", "_")] = nn.Parameter(factor * value)

    def forward(self, x, c_noise, cond):
        w = self.weights
        second = cond["sigma_to"].reshape(-1) if "sigma_to" in cond else torch.zeros_like(c_noise)
        hidden = x.flatten(1) @ w["inp_weight"].T + torch.stack([c_noise, second], dim=1) @ w["time_weight"].T
        if "labels" in cond and "label_weight" in w:
            hidden = hidden + cond["labels"] @ w["label_weight"].T
        hidden = torch.tanh(hidden) * (1 if self.mask is None else self.mask)
        return (torch.tanh(hidden @ w["hid_weight"].T + w["hid_bias"]) @ w["out_weight"].T).reshape(x.shape)

    def grad_norms(self) -> dict[str, float]:
        """Norms of the gradients by the names of the case."""
        norms = {name.replace("_", "."): one.grad.norm() for name, one in self.weights.items() if one.grad is not None}
        return {name: float(norm) for name, norm in norms.items()}
