"""Discrete noise levels drawn by the loss they had (Nichol & Dhariwal 2021, section 3.3)."""

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.distributed import gather_tensors
from elucid.training.noise.distributions import DiscreteLevels


class LossAwareLevels(DiscreteLevels, nn.Module):
    """p_t ~ sqrt(E[L_t^2]) over the last `history` losses of each level, mixed with `uniform` of a uniform one.

    Uniform until every level has that many (ibid., eq. 18). The loss is weighted by 1 / (T p_t), so that its
    expectation does not change. The losses are saved in training states.
    """

    def __init__(self, history: int = 10, uniform: float = 0.001):
        nn.Module.__init__(self)
        if history < 1 or not 0 < uniform <= 1:
            raise UserError(
                f"history={history}, uniform={uniform:g}: need history of at least 1 and uniform above 0, at most 1"
            )
        self.history, self.uniform = history, uniform
        self.pending: list[tuple[Tensor, Tensor]] = []

    def setup(self, denoiser) -> None:
        count, device = len(denoiser.levels), next(denoiser.parameters()).device
        self.register_buffer("losses", torch.zeros(count, self.history, device=device))
        self.register_buffer("counts", torch.zeros(count, dtype=torch.int64, device=device))

    def probabilities(self) -> Tensor:
        """Return the probability of each level [T], largest level first."""
        size = (self.losses**2).mean(dim=1).sqrt()
        by_loss = (1 - self.uniform) * size / size.sum().clamp_min(1e-30) + self.uniform / len(size)
        return torch.where((self.counts >= self.history).all(), by_loss, 1 / len(size))

    def sample(self, count: int, denoiser, device) -> Tensor:
        index = torch.multinomial(self.probabilities(), count, replacement=True)
        return self.levels_on(index.device, denoiser)[index].to(device, torch.float32).reshape(-1, 1, 1, 1)

    def importance(self, sigma: Tensor, denoiser) -> Tensor:
        probabilities = self.probabilities()
        return 1 / (len(probabilities) * probabilities[denoiser.index(sigma)])

    def observe(self, sigma: Tensor, loss: Tensor, denoiser) -> None:
        if self.training:
            self.pending.append((denoiser.index(sigma).reshape(-1), loss.to(torch.float32)))

    def after_step(self) -> None:
        if not self.pending:
            return  # within a loss that does not report them, such as cdm
        index = gather_tensors(torch.cat([index for index, _ in self.pending]))
        loss = gather_tensors(torch.cat([loss for _, loss in self.pending]))
        self.pending = []
        order = index.argsort(stable=True)
        index, loss = index[order], loss[order]
        drawn = torch.zeros_like(self.counts).index_add_(0, index, torch.ones_like(index))
        nth = torch.arange(len(index), device=index.device) - (drawn.cumsum(0) - drawn)[index]
        kept = nth >= drawn[index] - self.history
        # The others go to a row of their own, as a device does not know how many they are without asking.
        rows = torch.where(kept, index, len(self.losses))
        padded = torch.cat([self.losses, self.losses.new_zeros(1, self.history)])
        padded[rows, (self.counts[index] + nth) % self.history] = loss
        self.losses.copy_(padded[:-1])
        self.counts += drawn
