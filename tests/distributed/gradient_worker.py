"""One process of the test of gradients: writes the gradients of a fixed batch, shared among the processes.

Arguments: file to write, and numbers of accumulated passes, one gradient for each. The file also has the gradients of
the second of two steps with a static graph ("static"), and without a search for unused parameters ("all used").
"""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import sync_gradients, wrap
from elucid.training.config.build import make_denoiser
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import LogNormal
from elucid.training.objective import Objective
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class FixedDraws(DSM):
    """DSM whose noise and levels come with the batch."""

    def forward(self, denoiser, batch, step):
        evaluation = self.evaluate(denoiser, batch, batch.cond["sigma"], batch.cond["noise"])
        return LossOutput(evaluation.error.sum(dim=(1, 2, 3)))


def main(path: str, accumulations: list[int]) -> None:
    device = torch.device("cpu")
    distributed.init(device)
    gradients = {passes: gradient(passes, lambda one: wrap(one, device)) for passes in accumulations}
    gradients["all used"] = gradient(2, lambda one: wrap(one, device, find_unused=False))
    if distributed.world_size() > 1:
        gradients["static"] = gradient(1, lambda one: DistributedDataParallel(one, static_graph=True), steps=2)
    if distributed.is_main():
        torch.save(gradients, path)
    distributed.shutdown()


def gradient(passes: int, wrap_in, steps: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    denoiser = make_denoiser(network, {"name": "edm"}, NetSpec((16, 16), 3, vector={"labels": 4}))
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    images, noise, sigma = torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16), torch.rand(8, 1, 1, 1) + 0.1
    labels = torch.eye(4)[torch.arange(8) % 4]
    objective = Objective(denoiser, FixedDraws(LogNormal()))
    wrapped = wrap_in(objective)
    micro = 8 // distributed.world_size() // passes
    for index in range(steps * passes):
        if index % passes == 0:
            objective.zero_grad(set_to_none=True)
        index %= passes
        start = (index * distributed.world_size() + distributed.rank()) * micro
        mine = slice(start, start + micro)
        batch = Batch(images[mine], {"labels": labels[mine], "sigma": sigma[mine], "noise": noise[mine]})
        with sync_gradients(wrapped, last=index == passes - 1):
            (wrapped(batch, Step(0, 0, 1, 0, 8)).loss.sum() / (micro * passes)).backward()
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


if __name__ == "__main__":
    main(sys.argv[1], [int(passes) for passes in sys.argv[2:]])
