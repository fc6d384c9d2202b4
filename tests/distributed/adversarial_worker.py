"""One process of the test of losses with two optimizers: writes the gradients of each phase for a fixed batch.

Argument: the file to write. Draws come with the batch, and all is float64, so that only the exchange can differ.
"""

import copy
import sys

import torch

from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import wrap
from elucid.training.config.build import make_denoiser
from elucid.training.losses.distillation.discriminator import Diffusion
from elucid.training.losses.dsm import DSM
from elucid.training.objective import Objective
from elucid.training.optim.phase import PhaseOptimizer
from elucid.training.optim.schedules import Constant
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch, LossOutput, NetSpec, Step

LOSSES = {
    "dmd2": {"name": "dmd2", "teacher": "none", "width": 8},
    "adversarial": {"name": "adversarial", "base": {"name": "edm"}, "width": 8},
}


class FixedDiffusion(Diffusion):
    """Noise and levels of a batch, the same at each call."""

    def draw(self, images):
        return images + self.sigma * self.noise, self.sigma


def fix_draws(loss, batch):
    """Let a loss take its draws from the batch."""
    sigma, noise = batch.cond["sigma"], batch.cond["noise"]
    for name in ("diffusion", "shown"):
        if hasattr(loss, name):
            one = getattr(loss, name)
            one.__class__, one.sigma, one.noise = FixedDiffusion, sigma, noise
    if hasattr(loss, "fake"):
        loss.generate = lambda denoiser, batch: denoiser(noise * 80, 80.0, batch.cond).x0
    else:
        loss.base.__class__.forward = lambda self, denoiser, batch, step: LossOutput(
            DSM.evaluate(self, denoiser, batch, sigma, noise).error.sum(dim=(1, 2, 3))
        )


def gradients(name: str, device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    loss = make(LOSSES[name], "loss")
    spec = loss.adapt(NetSpec((8, 8), 3, vector={"labels": 4}))
    network = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    denoiser = make_denoiser(network, {"name": "edm"}, spec, "fp64").double()
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    loss.setup(denoiser, lambda path: Teacher(copy.deepcopy(denoiser)))
    for module in (loss.head, *([loss.fake] if name == "dmd2" else [])):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    images, noise = torch.randn(2, 8, 3, 8, 8, dtype=torch.float64)
    sigma, labels = torch.rand(8, 1, 1, 1, dtype=torch.float64) + 0.1, torch.eye(4)[torch.arange(8) % 4]
    count = 8 // distributed.world_size()
    mine = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    batch = Batch(images[mine], {"labels": labels[mine], "sigma": sigma[mine], "noise": noise[mine]})
    fix_draws(loss, batch)
    objective = Objective(denoiser, loss)
    wrapped, found = wrap(objective, device, find_unused=not objective.uses_all_parameters), {}
    for phase in (*loss.all_phases, *loss.all_phases):  # each of them after the others as well
        named = list(loss.parameters_of(denoiser, phase))
        optimizer = torch.optim.SGD([one for _, one in named], lr=1e-3)
        phased = PhaseOptimizer(optimizer, Constant(), named, torch.amp.GradScaler("cpu", enabled=False), None, phase)
        phased.zero_grad()
        with phased.only_trainable(objective):
            (wrapped(batch, Step(0, 0, 1000, 0, 8, phase)).loss.sum() / count).backward()
        found[f"{phase}{len(found)}"] = {key: one.grad.clone() for key, one in named if one.grad is not None}
        phased.step_if_finite()
    return found


def main(path: str) -> None:
    device = torch.device("cpu")
    distributed.init(device)
    found = {name: gradients(name, device) for name in LOSSES}
    if distributed.is_main():
        torch.save(found, path)
    distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
