"""What the makers of hostile files start from: whole files of each kind, and a canary that none may touch."""

import copy
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elucid.metrics.detectors import make_detector
from elucid.metrics.reference import save_reference
from elucid.metrics.statistics import FeatureStatistics
from elucid.torch_utils.checkpoint import save_state
from elucid.training.config.build import make_denoiser
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec

EVERY = ("generate", "train", "fid", "dataset_tool")


@dataclass(frozen=True)
class Case:
    """A file of a kind (`KINDS` of `commands`), which the scripts in `accepted` may also read.

    They read other parts of it, or leave out what is harmful, with a note.
    """

    kind: str
    name: str
    path: Path
    accepted: tuple[str, ...] = ()


@dataclass
class Kit:
    """`folder` holds the whole files and the hostile ones; what runs code in a file would make `canary`."""

    folder: Path
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def write(self, kind: str, name: str, data: bytes, suffix: str = "", accepted: tuple[str, ...] = ()) -> Case:
        path = self.folder / kind / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return Case(kind, name, path, accepted)

    @cached_property
    def snapshot(self) -> Path:
        network = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
        torch.manual_seed(0)
        denoiser = make_denoiser(network, {"name": "edm"}, NetSpec((8, 8), 3)).eval()
        path = self.folder / "good" / "network-snapshot-000000.pkl"
        save_snapshot(path, Snapshot({"0.5": denoiser}, dataset={"name": "good", "resolution": [8, 8], "channels": 3}))
        return path

    @cached_property
    def pictures(self) -> Path:
        """A folder of eight random RGB pictures of 8x8."""
        folder = self.folder / "good" / "pictures"
        folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for index in range(8):
            (folder / f"{index}.png").write_bytes(png(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)))
        return folder

    @cached_property
    def state(self) -> dict:
        """The state of a run on `pictures` before its first step."""
        from elucid.api.launch import options_and_state
        from elucid.training.config.train_options import TrainOptions
        from elucid.training.run import Run
        from tests import scripts

        assigned = [one.removeprefix("--set=") for one in scripts.TINY if one.startswith("--set=")]
        options = TrainOptions(
            data=str(self.pictures), outdir="unused", cbase=8, cres=[1], batch=4, duration=0.000004, tick=0.004,
            set=[*assigned, "network.num_blocks=1"], seed=0, device="cpu", cache="0",
        )  # fmt: skip
        resolved, _, _ = options_and_state(options, options.flags())
        run = Run(resolved, torch.device("cpu"))
        state = run.state_dict()
        run.stream.close()
        return state

    def state_with(self, **changes) -> dict:
        return {**copy.deepcopy(self.state), **changes}

    def options_with(self, path: str, value) -> str:
        """The state's options as JSON, with one changed."""
        options = json.loads(self.state["options"])
        *parts, last = path.split(".")
        node = options
        for part in parts:
            node = node[part]
        node[last] = value
        return json.dumps(options)

    @cached_property
    def state_file(self) -> Path:
        path = self.folder / "good" / "training-state-000000.pt"
        save_state(path, self.state)
        return path

    @cached_property
    def reference(self) -> Path:
        detector = make_detector("random", torch.device("cpu"))
        statistics = FeatureStatistics(detector.dim)
        statistics.update(torch.randn(8, detector.dim, generator=torch.Generator().manual_seed(0)))
        path = self.folder / "good" / "reference.npz"
        save_reference(path, statistics, detector)
        return path

    def damaged(self, kind: str, whole: Path, cuts: int, flips: int) -> Iterator[Case]:
        """Files cut at random places, and with one random bit flipped."""
        data = whole.read_bytes()
        for trial in range(cuts):
            end = self.rng.randrange(len(data) - 41)
            yield self.write(kind, f"cut-{trial}", data[:end], whole.suffix)
        for trial in range(flips):
            changed = bytearray(data)
            changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            yield self.write(kind, f"flip-{trial}", bytes(changed), whole.suffix)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
