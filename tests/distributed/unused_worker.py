"""One process of the test of parameters that a step does not use: writes this rank's gradients after each step.

Arguments: folder to write to, and numbers of accumulated passes, one file for each. Weight `a` is used always,
`b` on rank 1 only and not in step 1, `c` in the first of two passes only, `d` never; `e` belongs to another phase,
which is off but in step 2.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import sync_gradients, wrap
from elucid.training.types import LossOutput


class Uses(nn.Module):
    def __init__(self):
        super().__init__()
        for index, name in enumerate("abcde"):
            self.register_parameter(name, nn.Parameter(torch.full((3,), 1.0 + index)))

    def forward(self, x, used):
        loss = sum((getattr(self, name) * x).pow(2).sum(1) for name in used)
        return LossOutput(loss, {})


def main(folder: str, accumulations: list[int]) -> None:
    device = torch.device("cpu")
    distributed.init(device)
    for passes in accumulations:
        name = f"{passes}-{distributed.world_size()}-{distributed.rank()}.pt"
        torch.save(gradients(passes, device), Path(folder) / name)
    distributed.shutdown()


def gradients(passes: int, device: torch.device) -> list[dict[str, torch.Tensor]]:
    model = Uses()
    wrapped = wrap(model, device)
    x = torch.arange(24, dtype=torch.float32).reshape(8, 3) / 10
    ranks, history = distributed.world_size(), []
    for step in range(3):
        model.e.requires_grad_(step == 2)
        model.zero_grad(set_to_none=True)
        count = 8 // ranks // passes
        for index in range(passes):
            # One process does what both would: the part of each rank after the other.
            for rank in range(2) if ranks == 1 else [distributed.rank()]:
                share = 8 // 2 // passes
                part = x[(index * 2 + rank) * share :][:share]
                used = "a" + ("b" if rank == 1 and step != 1 else "") + ("c" if index == 0 and passes > 1 else "")
                used += "e" if step == 2 else ""
                with sync_gradients(wrapped, last=index == passes - 1):
                    loss = wrapped(part, used).loss.sum()
                    (loss / (8 if ranks == 1 else count * passes)).backward()
        history.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    return history


if __name__ == "__main__":
    main(sys.argv[1], [int(passes) for passes in sys.argv[2:]])
