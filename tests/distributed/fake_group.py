"""Train a step of a sharded run as one process of many, in torch's fake process group, and print what it holds.

Arguments: data set, then ROLES such as 64:0:8, process 0 of 64 in groups of 8. Prints a JSON object by role: how many
numbers weights, gradients, moments and averages have on this process, and in the whole model. No other process runs, so
the numbers themselves mean nothing.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from elucid.torch_utils.parallel import wrap
from elucid.torch_utils.sharding.parts import part
from elucid.training.config.options import options_from
from elucid.training.config.train_options import TrainOptions
from elucid.training.loop import train_step
from elucid.training.run import Run


def numbers(tensors) -> int:
    return sum(part(one).numel() for one in tensors)


def held(data: str, world: int, rank: int, group: int) -> dict[str, int]:
    os.environ.update(WORLD_SIZE=str(world), RANK=str(rank))
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    small = {"network.num_blocks": 1, "network.attn_resolutions": []}
    options = TrainOptions(
        data=data, seed=3, cache="0", shard=group, batch=world, cbase=64, cres=[1], ema=[0.1, 0.5], set=small
    )
    run = Run(options_from(options.flags()), torch.device("cpu"))
    weights, phase = list(run.denoiser.parameters()), run.optimizers["main"]
    step_if_finite = phase.step_if_finite

    def step_on_numbers():
        """Where other processes would have written, some versions of torch leave what was in memory, perhaps NaN."""
        for one in weights:
            part(one.grad).zero_()
        return step_if_finite()

    phase.step_if_finite = step_on_numbers
    train_step(run, wrap(run.objective, run.device, find_unused=False))
    main = phase.optimizer
    moments = [value for state in main.state.values() for name, value in state.items() if name != "step"]
    averages = [one for average in run.ema.averages.values() for one in average.parameters()]
    dist.destroy_process_group()
    return {
        "weights": numbers(weights),
        "gradients": numbers(one.grad for one in weights),
        "moments": numbers(moments),
        "averages": numbers(averages),
        "whole": sum(one.numel() for one in weights),
        "largest": max(one.numel() for one in weights),
        "rows": max(len(one) for one in weights),
    }


if __name__ == "__main__":
    roles = {role: held(sys.argv[1], *map(int, role.split(":"))) for role in sys.argv[2:]}
    print(json.dumps(roles))
