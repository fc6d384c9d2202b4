"""Random numbers: one generator per seed, and the state of a process's generators."""

import numpy as np
import torch
from torch import Tensor


class PerSeedRandom:
    """Batched draws in which sample i depends on seed i alone, whatever else is in the batch.

    Seeds are taken modulo 2^32. Draws come in the order asked for: latents, then class, then step noise.
    """

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(int(seed) % (1 << 32)) for seed in seeds]

    def randn(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit normal [len(seeds), *shape]."""
        return torch.stack([torch.randn(shape, generator=g, dtype=dtype, device=self.device) for g in self.generators])

    def randn_like(self, x: Tensor) -> Tensor:
        """Unit normal of the shape and type of x [len(seeds), ...]."""
        return self.randn(tuple(x.shape[1:]), x.dtype)

    def randint(self, high: int) -> Tensor:
        """Uniform integers [len(seeds)] in [0, high)."""
        draws = [torch.randint(high, (), generator=g, device=self.device) for g in self.generators]
        return torch.stack(draws)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices) and numpy's global generator."""
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of this process's torch generators, as tensors: the CPU's and, on CUDA, the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo of `random_state`; a missing CUDA state (a run moved between devices) leaves that generator as it is."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
