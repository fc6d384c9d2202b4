"""One process of the test of sharded runs: trains a few steps, and writes what it finds.

Arguments: data set, and folder to write `CASE.pt` to on the main process: by way of training ("sharded", "whole") the
hash of a first snapshot, losses and gradient norms of each step, and the averages as a snapshot has them. Of the case
"resumed" the second half of the steps is done by another run, from the state of the first.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import torch

from elucid.dnnlib.files import sha256
from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import wrap
from elucid.torch_utils.sharding.parts import is_sharded
from elucid.training.config.options import options_from
from elucid.training.config.train_options import TrainOptions
from elucid.training.loop import train_step
from elucid.training.losses.dsm import DSM
from elucid.training.run import Run
from elucid.training.saving import StateFiles
from elucid.training.snapshots.snapshot import save_snapshot

SMALL = {"network.num_blocks": 1, "network.attn_resolutions": [8]}
TRANSFORMER = {"patch": 2, "depth": 3, "num_heads": 4, "bottleneck": 6, "context_tokens": 2, "context_start": 1}
BASE = {"cbase": 16, "cres": [1], "batch": 8, "cond": True, "augment": 0, "dropout": 0, "ema": [1e-4, 1e-3], "lr": 1e-3}
PROBE = str(Path(__file__).parents[1] / "probes/adversarial.py")
CASES: dict[str, dict] = {
    "plain": {},
    "passes": {"batch_gpu": 2, "clip": 0.5, "arch": "adm"},
    "resumed": {},
    "edm2": {
        "arch": "edm2",
        "precond": "edm2",
        "batch_gpu": 2,
        "ema": None,
        "set": {"network.channels_per_head": 8, "ema.name": "power"},
    },
    "jit": {
        "arch": "jit",
        "cres": None,
        "set": {f"network.{name}": value for name, value in TRANSFORMER.items()},
    },
    "bf16": {"precision": "bf16", "checkpointing": True, "dropout": 0.3},
    "cdm": {"loss": "patch(cdm(edm))", "set": {"loss.base.martingale_steps": 2}},
    "aligned": {
        "cbase": 16,
        "cres": None,
        "dropout": None,
        "arch": "transformer",
        "loss": "alignment(edm)",
        "set": {
            "network.depth": 2,
            "network.num_heads": 2,
            "loss.layer": "block1",
            "loss.width": 16,
            "loss.features.name": str(Path(__file__).parents[1] / "probes/tokens.py:Squares"),
        },
    },
    "mean_flow": {"precond": "flow", "loss": "mean_flow"},
    "scm": {"loss": "uncertainty(scm)", "dropout": 0.3},
    "phases": {
        "loss": f"{PROBE}:Adversarial(edm)",
        "set": {"loss.discriminator.name": f"{PROBE}:Critic", "loss.discriminator.width": 4},
    },
}
ALONE = ("plain", "passes", "resumed", "edm2", "aligned", "jit")
"""Cases with fixed draws, which a single process repeats."""
STEPS = 3


def make_run(case: str, data: str, sharded: bool) -> Run:
    given = {**BASE, **CASES[case]}
    small = SMALL if given["cres"] else {}
    given["set"] = {"optimizer.lr_rampup_kimg": 0.001, **small, **given.get("set", {})}
    options = TrainOptions(data=data, seed=3, cache="0", shard=sharded, **given)
    return Run(options_from(options.flags()), torch.device("cpu"))


def trained(case: str, data: str, sharded: bool, folder: Path | None = None) -> dict:
    """Train as the case says; with a `folder`, save there halfway and go on with another run."""
    run, found = make_run(case, data, sharded), {"loss": [], "norm": []}
    assert any(map(is_sharded, run.objective.parameters())) == (sharded and distributed.world_size() > 1)
    found["first"] = snapshot_bytes(run)
    objective = wrap(run.objective, run.device, find_unused=not run.objective.uses_all_parameters)
    for step in range(STEPS):
        if folder is not None and step == STEPS // 2:
            files = StateFiles(folder, run.shards)
            files.write(files.path("000001"), run.state_dict())
            run = make_run(case, data, sharded)
            run.resume(files.newest()[1])
            objective = wrap(run.objective, run.device, find_unused=False)
        train_step(run, objective)
        found["loss"].append(run.stats.collect()["Loss/loss"]["mean"])
        found["norm"].append(float(run.optimizers["main"].grad_norm))
    snapshot = run.snapshot()
    if snapshot is not None:
        found["averages"] = {name: dict(one.state_dict()) for name, one in snapshot.emas.items()}
    return found


def snapshot_bytes(run: Run) -> str:
    """The hash of a snapshot without the options of the run, on the main process."""
    snapshot = run.snapshot()
    if snapshot is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network-snapshot-000000.pkl")
        save_snapshot(path, dataclasses.replace(snapshot, options={}))
        return sha256(path)


def draws_of_their_images(evaluate):
    """Let noise and level of an image depend on it alone, and not on the process that has it."""

    def same_draws(self, denoiser, batch, sigma=None, noise=None):
        seeds = [int(one.abs().sum() * 1e4) for one in batch.images]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        sigma = torch.stack([(torch.randn(1, 1, 1, generator=one) * 1.2 - 1.2).exp() for one in generators])
        noise = torch.stack([torch.randn(batch.images.shape[1:], generator=one) for one in generators])
        return evaluate(self, denoiser, batch, sigma, noise)

    return same_draws


def fixed_draws(case: str, data: str, sharded: bool, folder: Path | None = None) -> dict:
    before = DSM.evaluate
    DSM.evaluate = draws_of_their_images(before)
    try:
        return trained(case, data, sharded, folder)
    finally:
        DSM.evaluate = before


def main(data: str, folder: str) -> None:
    distributed.init(torch.device("cpu"))
    for case in CASES:
        if case in ALONE:
            found = {"sharded": fixed_draws(case, data, True, Path(folder) if case == "resumed" else None)}
        else:
            found = {"sharded": trained(case, data, True), "whole": trained(case, data, False)}
        if distributed.is_main():
            torch.save(found, Path(folder, f"{case}.pt"))
    distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
