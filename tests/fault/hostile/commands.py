"""The commands that read each kind of file."""

from collections.abc import Iterator
from pathlib import Path

from tests.fault.hostile.kit import Kit

KINDS = ("snapshot", "weights", "transformer", "state", "reference", "images", "picture", "latents", "source")


def calls(kind: str, path: Path, kit: Kit, out: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield names of the commands that read a file of this kind, and their arguments; `out` is a new folder."""
    random = ["--detector=random", "--device=cpu"]
    if kind in ("snapshot", "weights"):
        steps = ["--seeds=0", "--steps=1", "--device=cpu"]
        yield "generate", [f"--network={path}", f"--outdir={out}", *steps]
    if kind == "transformer":
        yield "generate", [f"--network={path}", f"--outdir={out}", "--seeds=0", "--steps=1", "--device=cpu"]
    if kind == "snapshot":
        tiny = ["--cbase=8", "--cres=1", "--duration=0.000004", "--batch=4", "--device=cpu", "--cache=0"]
        yield "train", [f"--transfer={path}", f"--outdir={out}", f"--data={kit.pictures}", *tiny]
    if kind == "weights":
        yield "fid", ["ref", f"--data={kit.pictures}", f"--dest={out / 'ref.npz'}", f"--detector_weights={path}"]
    if kind == "state":
        yield "train", [f"--resume={path}", "--device=cpu"]
    if kind == "reference":
        yield "fid", ["calc", f"--images={kit.pictures}", f"--ref={path}", "--num=8", *random]
    if kind in ("images", "picture", "latents"):
        yield "dataset_tool", ["verify", f"--source={path}"]
    if kind in ("images", "latents"):
        yield "train", [f"--data={path}", "-n", "--device=cpu", "--cbase=8", "--cres=1"]
    if kind == "images":
        yield "fid", ["ref", f"--data={path}", f"--dest={out / 'ref.npz'}", *random]
    if kind in ("images", "picture", "source"):
        yield "dataset_tool", [f"--source={path}", f"--dest={out / 'out.zip'}"]
