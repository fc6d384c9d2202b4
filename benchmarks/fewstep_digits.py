"""Digits in one step: trains each method of few steps on small pictures of digits, and judges its samples.

    python -m benchmarks.fewstep_digits --train=digits.zip --test=digits-test.zip --outdir=OUT [--only=ect,mean_flow]

A diffusion model is trained first (the recipe of the demo, `--teacher` gives another); the methods start from it or
learn from it, but for those from data. Each is sampled in one step and in two, 1,000 images of all classes; the same
network called once before the method, and in 18 steps, stand beside them. What is done is not done again: the same
command goes on. `benchmarks/digits.py` explains the columns.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.digits import judged, read

ROOT = Path(__file__).resolve().parent.parent
NUMBER = 1000

COMMON = "--preset=demo --augment=0 --batch=64 --ema=0.02 --tick=16 --snap=100 --dump=1"
TEACHER = "--preset=demo --duration=0.064 --tick=16 --snap=100 --dump=1"
TUNED = f"{COMMON} --optimizer=radam --lr=5e-4 --duration=0.256 --transfer=TEACHER"

DISTILLED = f"{COMMON} --optimizer=radam --lr=5e-4 --duration=0.128 --teacher=TEACHER"
FROM_DATA = f"{COMMON} --lr=2e-3 --ema=0.005 --duration=0.256"
OFTEN_EQUAL = "--set loss.P_mean=-0.4 --set loss.P_std=1.0 --set loss.ratio=0.5"

METHODS = {
    "ict": f"{TUNED} --loss=ict --set loss.end=80",
    "ect": f"{TUNED} --loss=ect",
    "tcm": f"{COMMON} --optimizer=radam --lr=2e-4 --duration=0.128 --loss=tcm --teacher=ect",
    "scm": f"{TUNED} --loss=uncertainty(scm) --set loss.base.warmup=1000",
    "mean_flow": f"{FROM_DATA} --precond=flow --loss=mean_flow {OFTEN_EQUAL}",
    "imm": f"{FROM_DATA} --precond=imm --loss=imm --set loss.k=6",
    "cd": f"{DISTILLED} --loss=cd",
    "dmd2": f"{COMMON} --lr=1e-4 --duration=0.032 --loss=dmd2 --teacher=TEACHER",
    "ct": f"{TUNED} --loss=ct --set loss.start=10 --set loss.end=80",
    "scd": f"{DISTILLED} --loss=uncertainty(scd) --set loss.base.warmup=500",
    "progressive": f"{DISTILLED} --loss=progressive --set loss.start=16",
    "improved_mean_flow": f"{FROM_DATA} --precond=flow --loss=improved_mean_flow {OFTEN_EQUAL}",
}
"""The flags of each method: the eight first, then their kin. TEACHER stands for the snapshot of the diffusion model, a
name of a method for that of it, trained before."""


ONE_LEVEL = {"dmd2"}
"""Methods whose snapshots have the level of one step only."""


def run(script: str, *flags: str, log: Path) -> float:
    """Run a command, its output into a file; returns its seconds. Ends the program if it fails."""
    started = time.monotonic()
    with log.open("w") as file:
        command = [sys.executable, str(ROOT / script), *flags]
        if subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            raise SystemExit(f"{shlex.join(command)} failed; see {log}")
    return time.monotonic() - started


def trained(folder: Path, flags: list[str]) -> Path:
    """Train, or go on with a training that was cut off; returns the last snapshot."""
    if not (folder / "done.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        states = sorted(folder.glob("training-state-*.pt"))
        given = [f"--resume={states[-1]}"] if states else [*flags, f"--outdir={folder}", "--nosubdir"]
        seconds = run("train.py", *given, log=folder / "log.txt")
        (folder / "done.json").write_text(json.dumps({"seconds": seconds, "resumed": bool(states)}))
    return snapshot(folder)


def snapshot(folder: Path) -> Path:
    """Return the last snapshot of a run. Ends the program if there is none."""
    found = sorted(folder.glob("network-snapshot-*.pkl"))
    if not found:
        raise SystemExit(f"{folder} has no snapshot; train it first (--only)")
    return found[-1]


def sampled(network: Path, folder: Path, *flags: str) -> Path:
    """Sample NUMBER images of all classes, those that are missing."""
    out = [f"--network={network}", f"--outdir={folder}", f"--seeds=0-{NUMBER - 1}", "--labels"]
    run("generate.py", *out, *flags, log=folder.with_suffix(".txt"))
    return folder


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "test", "outdir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="default: trained here")
    parser.add_argument("--only", default=",".join(METHODS), help="methods, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", default="", help="further flags of all trainings, e.g. for images of 8x8")
    given = parser.parse_args(argv)
    out, more = given.outdir.resolve(), [f"--data={given.train.resolve()}", *shlex.split(given.set)]
    seeded = [*more, f"--seed={given.seed}"]
    teacher = given.teacher or trained(out / "teacher", [*TEACHER.split(), *seeded])
    folders = {"diffusion, 18 steps": sampled(teacher, out / "teacher-18")}
    folders["the same, called once"] = sampled(teacher, out / "teacher-1", "--sampler=consistency", "--steps=1")
    seconds: dict[str, float] = {}
    for name in given.only.split(","):
        folder = out / f"{name}-{given.seed}"
        flags = METHODS[name].replace("TEACHER", str(teacher)).split()
        for first in METHODS:  # a second stage
            if f"--teacher={first}" in flags:
                flags[flags.index(f"--teacher={first}")] = f"--teacher={snapshot(out / f'{first}-{given.seed}')}"
        network = trained(folder, [*flags, *seeded])
        seconds[name] = json.loads((folder / "done.json").read_text())["seconds"]
        for steps in (1,) if name in ONE_LEVEL else (1, 2):
            folders[f"{name}, {steps}"] = sampled(network, out / f"{folder.name}-steps{steps}", f"--steps={steps}")
    train, test = read(str(given.train)), read(str(given.test))
    rows = [judged("real", *train, train, test, 10.0, "scale")]
    rows += [judged(name, *read(str(folder)), train, test, 10.0, "scale") for name, folder in folders.items()]
    once = next(row["frechet"] for row in rows if row["images"] == "the same, called once")
    print(f"{'images':24} {'seconds':>8} {'recognised %':>13} {'Fréchet':>9} {'of once %':>10} {'deviation':>10}")
    for row in rows:
        row["seconds"] = seconds.get(row["images"].partition(",")[0])
        took = f"{row['seconds']:8.0f}" if row["seconds"] else " " * 8
        line = f"{row['images']:24} {took} {100 * row['recognised']:13.1f} {row['frechet']:9.4f}"
        print(f"{line} {100 * row['frechet'] / once:10.1f} {row['deviation']:10.2f}")
    (out / f"table-{given.seed}.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
