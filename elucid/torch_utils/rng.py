"""Random numbers: a generator per seed, and the state of the global generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from elucid.torch_utils.transfer import moved


class PerSeedRandom:
    """Draws batches of random numbers in which sample i depends on seed i only.

    Seeds are taken modulo 2^32. The order of calls matters: latents, then class, then step noise. The numbers of a seed
    are others on another kind of `device`; with `source` "cpu" they are drawn on the host, the same for all.
    """

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu", source: torch.device | str | None = None):
        self.device, self.source = torch.device(device), torch.device(device if source is None else source)
        self.generators = [torch.Generator(self.source).manual_seed(int(seed) % (1 << 32)) for seed in seeds]

    def randn(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw unit normal noise [len(seeds), *shape]."""
        draws = [torch.randn(shape, generator=g, dtype=dtype, device=self.source) for g in self.generators]
        return moved(torch.stack(draws), self.device)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw unit normal noise of the shape and dtype of x [len(seeds), ...]."""
        return self.randn(tuple(x.shape[1:]), x.dtype)

    def randint(self, high: int) -> Tensor:
        """Draw uniform integers [len(seeds)] in [0, high)."""
        draws = [torch.randint(high, (), generator=g, device=self.source) for g in self.generators]
        return moved(torch.stack(draws), self.device)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices) and numpy's global generator."""
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of this process's torch generators as tensors: CPU and, on CUDA, the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore `random_state`; if there is no CUDA state (run moved between devices), that generator is unchanged."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Let what happens in this context leave the global generators, torch's and numpy's, as they were."""
    numpy_state, state = np.random.get_state(), random_state(device)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        set_random_state(state, device)
