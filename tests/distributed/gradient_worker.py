"""One process of the test of gradients: writes the gradients of a fixed batch, shared among the processes.

Arguments: file to write, and numbers of accumulated passes, one gradient for each. The file also has the gradients of
the second of two steps with a static graph ("static"), without a search for unused parameters ("all used"), in bf16
with working weights ("bf16"), of alignment with two encoders ("aligned"), also after its end ("until"), and of losses
with forward derivatives ("mean_flow", "scm"). With two processes "buffers" has those of each after a pass, by case, and
"unused" the gradients of each where not all steps use a layer.
"""

import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import sync_gradients, wrap
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.losses.alignment import AlignmentLoss
from elucid.training.losses.dsm import DSM
from elucid.training.losses.fewstep.mean_flow import MeanFlow
from elucid.training.losses.fewstep.scm import SCM
from elucid.training.losses.uncertainty import UncertaintyLoss
from elucid.training.networks.layers import Conv2d
from elucid.training.noise.distributions import LogNormal
from elucid.training.objective import Objective
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.types import Batch, LossOutput, NetSpec, Step
from tests.probes.tokens import Squares


class FixedDraws(DSM):
    """DSM whose noise and levels come with the batch."""

    def forward(self, denoiser, batch, step):
        evaluation = self.evaluate(denoiser, batch, batch.cond["sigma"], batch.cond["noise"])
        return LossOutput(evaluation.error.sum(dim=(1, 2, 3)))


class FixedMeanFlow(MeanFlow):
    def forward(self, denoiser, batch, step):
        t = batch.cond["sigma"] / 2
        return LossOutput(self.at(denoiser, batch.images, batch.cond, t, t / 3, batch.cond["noise"])[0])


class FixedSCM(SCM):
    def forward(self, denoiser, batch, step):
        return self.at(denoiser, batch, batch.cond["sigma"], batch.cond["noise"], 0.7)


CONTINUOUS = {
    "mean_flow": ("flow", lambda: FixedMeanFlow(omega=2.0, kappa=0.5)),
    "scm": ("edm", lambda: UncertaintyLoss(FixedSCM(LogNormal()), features=16)),
}


def main(path: str, accumulations: list[int]) -> None:
    device = torch.device("cpu")
    distributed.init(device)
    gradients = {passes: gradient(passes, lambda one: wrap(one, device)) for passes in accumulations}
    gradients["all used"] = gradient(2, lambda one: wrap(one, device, find_unused=False))
    gradients["bf16"] = gradient(2, lambda one: wrap(one, device, find_unused=False), precision="bf16")
    gradients["aligned"] = gradient(2, lambda one: wrap(one, device, find_unused=False), aligned=1.0)
    gradients["until"] = gradient(2, lambda one: wrap(one, device, find_unused=False), aligned=1e-9)
    for name in CONTINUOUS:
        gradients[name] = gradient(2, lambda one: wrap(one, device, find_unused=False), continuous=name)
    if distributed.world_size() > 1:
        gradients["unused"] = unused(device)
        gradients["buffers"] = {case: buffers(case, device) for case in ("constant", "changing")}
        gradients["static"] = gradient(1, lambda one: DistributedDataParallel(one, static_graph=True), steps=2)
    if distributed.is_main():
        torch.save(gradients, path)
    distributed.shutdown()


def gradient(
    passes: int, wrap_in, steps: int = 1, precision: str = "fp32", aligned: float = 0.0, continuous: str = ""
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    spec, loss = NetSpec((16, 16), 3, vector={"labels": 4}), FixedDraws(LogNormal())
    if aligned:
        network = {"name": "transformer", "model_channels": 16, "depth": 2, "num_heads": 2, "patch": 4}
        loss = AlignmentLoss(loss, [Squares(), Squares(6, 2)], layer="block1", width=16, until=aligned)
    precond, made = CONTINUOUS.get(continuous, ("edm", lambda: loss))
    loss = made()
    spec = loss.adapt(spec)
    denoiser = make_denoiser(network, {"name": precond}, spec, precision)
    loss.setup(denoiser, None)
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    images, noise, sigma = torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16), torch.rand(8, 1, 1, 1) + 0.1
    labels = torch.eye(4)[torch.arange(8) % 4]
    objective = Objective(denoiser, loss)
    wrapped = wrap_in(objective)
    micro = 8 // distributed.world_size() // passes
    for index in range(steps * passes):
        if index % passes == 0:
            objective.zero_grad(set_to_none=True)
        index %= passes
        start = (index * distributed.world_size() + distributed.rank()) * micro
        mine = slice(start, start + micro)
        batch = Batch(images[mine], {"labels": labels[mine], "sigma": sigma[mine], "noise": noise[mine]})
        with sync_gradients(wrapped, last=index == passes - 1), working_weights(objective):
            (wrapped(batch, Step(0, 1, 10**6, 0, 8)).loss.sum() / (micro * passes)).backward()
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


class Scaled(nn.Module):
    constant_buffers = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.full((3,), 1.0 + distributed.rank()))

    def forward(self, x):
        return LossOutput((x.mean(dim=(2, 3)) * self.weight * self.scale).sum(dim=1))


class Either(nn.Module):
    """A network whose second layer may be left out."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.both = Conv2d(3, 3, 3), Conv2d(3, 3, 3), True

    def forward(self, x, c_noise, cond):
        x = self.first(x)
        return self.second(x) if self.both else x


def unused(device: torch.device) -> list[list[dict[str, torch.Tensor]]]:
    """Gradients of each process in steps that use the second layer on both, on one and on none, in bf16."""
    torch.manual_seed(0)
    objective = Objective(EDMPrecond(Either(), NetSpec((8, 8), 3), "bf16"), FixedDraws(LogNormal()))
    wrapped, images, history = wrap(objective, device), torch.randn(4, 3, 8, 8) + distributed.rank(), []
    batch = Batch(images, {"sigma": torch.ones(4, 1, 1, 1), "noise": torch.ones(4, 3, 8, 8)})
    for users in (2, 2, 1, 0):
        objective.zero_grad(set_to_none=True)
        objective.denoiser.model.both = distributed.rank() < users
        with working_weights(objective, keep=True):
            wrapped(batch, Step(0, 0, 1, 0, 4)).loss.sum().backward()
        history.append({name: one.grad.clone() for name, one in objective.named_parameters() if one.grad is not None})
    assert any(one.views for one in objective.denoiser.working.copies.values())
    return distributed.gather_objects(history)


def buffers(case: str, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """The buffers of each process, which saw images of its own, and whether they were sent in each pass."""
    module = Scaled() if case == "constant" else nn.Sequential(nn.BatchNorm2d(3), Scaled())
    wrapped = wrap(module, device, find_unused=False)
    for _ in range(2):
        wrapped(torch.randn(4, 3, 2, 2) + distributed.rank()).loss.sum().backward()
    wrapped.eval()
    wrapped(torch.randn(4, 3, 2, 2))  # in which they stay as they came
    last = {name: value.clone() for name, value in module.named_buffers()}
    return distributed.gather_objects({**last, "sent": torch.tensor(wrapped.broadcast_buffers)})


if __name__ == "__main__":
    main(sys.argv[1], [int(passes) for passes in sys.argv[2:]])
