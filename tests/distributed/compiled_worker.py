"""One process of the test of compilation: counts graphs under DistributedDataParallel, and writes the gradients.

Arguments: file to write, name of the network, and perhaps "fail". Its buckets are small, so that a block's weights lie
in several.
"""

import sys
from functools import partial

import torch
from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed, parallel
from elucid.training.config.build import make_denoiser
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import LogNormal
from elucid.training.objective import Objective
from elucid.training.types import Batch, NetSpec, Step
from tests import transformers

NETWORKS = {
    "ddpmpp": {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "dropout": 0.0},
    "jit": transformers.small("jit"),
}


def main(path: str) -> None:
    device = torch.device("cpu")
    distributed.init(device)
    parallel.DistributedDataParallel = partial(DistributedDataParallel, bucket_cap_mb=0.002)
    torch.manual_seed(0)
    objective = Objective(make_denoiser(NETWORKS[sys.argv[2]], {"name": "edm"}, NetSpec((8, 8), 3)), DSM(LogNormal()))
    for parameter in objective.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    wrapped, said, graphs = parallel.wrap(objective, device, find_unused=False), [], []

    def backend(module, inputs):
        graphs.append(module)
        if distributed.rank() == 1 and sys.argv[3:] == ["fail"]:
            raise RuntimeError("no such compiler")
        return module.forward

    gradients = []
    for how in (None, backend):
        objective.zero_grad(set_to_none=True)
        torch.manual_seed(1 + distributed.rank())
        if how is None:
            step(wrapped)
        else:
            with objective.denoiser.compiled(said.append, backend=how):
                step(wrapped)
        gradients.append({name: parameter.grad.clone() for name, parameter in objective.named_parameters()})
    found = distributed.gather_objects((len(graphs) - 1, said, gradients))
    if distributed.is_main():
        torch.save(found, path)
    distributed.shutdown()


def step(wrapped) -> None:
    wrapped(Batch(torch.randn(2, 3, 8, 8)), Step(0, 0, 1, 0, 4)).loss.sum().backward()


if __name__ == "__main__":
    main(sys.argv[1])
