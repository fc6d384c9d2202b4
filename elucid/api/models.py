"""Loads trained models, samples from them and shows the images."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from elucid.dnnlib.files import require_writable
from elucid.torch_utils.distributed import choose_device
from elucid.training.config.build import make_encoder
from elucid.training.preconds.base import Preconditioned
from elucid.training.sampling.generate import seed_list
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output import grid
from elucid.training.sampling.output.colours import pictures_of
from elucid.training.sampling.pipeline import make_pipeline, require_parts
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot
from elucid.training.snapshots.trust import import_plugins


class Model:
    """A snapshot on a device. `denoiser(x, sigma, cond)` is the EMA denoiser in eval mode."""

    def __init__(self, snapshot: Snapshot, device: torch.device):
        self.snapshot, self.device = snapshot, device

    @property
    def denoiser(self) -> Preconditioned:
        """D(x; sigma) of Karras et al. 2022: noisy x f32[B,C,H,W], sigma [B] or [B,1,1,1] -> a `Prediction`."""
        return self.snapshot.ema

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the network's samples (images or latents)."""
        return self.denoiser.spec.sample_shape

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; empty if there are none."""
        return list(self.snapshot.dataset.get("class_names") or [])

    @property
    def num_classes(self) -> int:
        """Number of classes, or width of vector labels; 0 without labels."""
        return self.denoiser.spec.label_dim

    @property
    def options(self) -> dict[str, Any]:
        """All options of the training run."""
        return self.snapshot.options

    def sample(
        self,
        seeds: Iterable[int],
        classes: int | str | Sequence[int | str] | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | type | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> Tensor:
        """Generate images u8[N,C,H,W] for the seeds, C 1 or 3, or arrays [N,C,H,W] in the data's own type and units.

        The image of a seed does not depend on the batch.

        `classes` is one class for all or one per seed, by number or name; by default they are drawn at random from the
        seed. `options` are the other fields of `SampleOptions`. Raises UserError for options that do not fit the model.
        """
        seeds = seed_list(seeds)
        chosen = SampleOptions(classes=classes, steps=steps, guidance=guidance, sampler=sampler, **options)
        require_parts(chosen)
        parts = make_pipeline(self.snapshot, chosen, self.device).generate(seeds, batch_size)
        return torch.cat([part.images.cpu() for part in parts])

    def pictures(self, samples: Tensor, colormap: str = "gray", channels: Sequence[int] | None = None) -> Tensor:
        """Return pictures u8[N,1 or 3,h,w] of samples, of arrays through a colour map, for `show` and `save_grid`.

        `channels` are beside one another, by default the first eight. Raises UserError for those that there are not.
        """
        return pictures_of(samples, make_encoder(self.snapshot.encoder), colormap, channels)

    def __repr__(self) -> str:
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        shape = "x".join(map(str, self.shape))
        of = f" of {self.snapshot.dataset['name']}" if self.snapshot.dataset.get("name") else ""
        trained = f", trained on {self.snapshot.nimg:,} images" if self.snapshot.nimg else ""
        return f"<elucid.Model{of}: {shape}{classes}{trained}, on {self.device}>"


def load(
    source: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    ema: str | None = None,
    plugins: Sequence[str] = (),
    adm: Mapping[str, Any] | None = None,
) -> Model:
    """Load a model from a snapshot file, a run folder (its newest snapshot), a URL, or a public checkpoint.

    `ema` selects one of several averages; `plugins` are modules and files whose code the snapshot may use. `adm` has
    options of a public state dict, with the names of its program's flags, or {"adm_preset": ...}, or, of a transformer,
    {"checkpoint_model": "SiT-XL/2"}; without, they are those of the published model of these shapes. Code in the file
    is never run. Raises UserError for a file that is damaged or not a snapshot.
    """
    place = choose_device(str(device) if device is not None else None)
    import_plugins(plugins)
    return Model(load_snapshot(source, place, ema, adm), place)


def show(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return a grid of images u8[N,C,H,W], enlarged and with gaps, for display in a notebook."""
    return grid.picture(grid.enlarged_grid(images, columns).numpy())


def save_grid(
    images: Tensor, path: str | os.PathLike, columns: int | None = None, *, pixel_for_pixel: bool = False
) -> None:
    """Write a grid of images u8[N,C,H,W] as PNG, enlarged and with gaps, or `pixel_for_pixel` without gaps."""
    require_writable(Path(path))
    grid.save_grid((grid.tile if pixel_for_pixel else grid.enlarged_grid)(images, columns), path)
