"""What a training step costs with each loss, beside what the number of network passes says it should.

    python benchmarks/losses.py [--repeats=5] [--device=cuda]

Unit: one forward pass of the network for one image; a backward pass counts 2, a forward derivative 1. Passes are
counted as they happen, of all networks: the student, its target, a teacher, a fake score. DSM is 3. CDM adds two paths
of 5 steps (10, or 8 when the first step reuses DSM's prediction) and a pass with gradient at their ends (6). ECT adds a
pass without gradient. A patch of 1/d of the side costs 1/d^2, and d times as many are taken. Classifier guidance by a
classifier of a share s of the network's FLOP costs 1 + 3 s of an unguided evaluation.
"""

import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch.autograd import forward_ad

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.flop import flop  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.torch_utils.distributed import choose_device  # noqa: E402
from elucid.training.config.build import make_denoiser  # noqa: E402
from elucid.training.networks.attention import forward_derivatives_active  # noqa: E402
from elucid.training.objective import Objective  # noqa: E402
from elucid.training.preconds.base import Preconditioned  # noqa: E402
from elucid.training.registry.components import make  # noqa: E402
from elucid.training.snapshots.transfer import Teacher  # noqa: E402
from elucid.training.types import Batch, NetSpec, Step  # noqa: E402

NETWORK = {"name": "ddpmpp", "model_channels": 32, "num_blocks": 2}
REAL_P = 0.5


@dataclass
class Case:
    """A loss, and at most how much dearer than its count it may measure."""

    name: str
    loss: dict
    bound: float | None = None
    precond: dict | str = "edm"


def consistency(fraction: float, reuse: bool) -> Case:
    loss = {"name": "cdm", "base": {"name": "edm"}, "consistency_fraction": fraction, "reuse_start": reuse}
    bound = 1.15 if fraction == 1 else None
    return Case(f"cdm, fraction {fraction:g}, {'first step reused' if reuse else 'all steps'}", loss, bound)


CASES = [
    Case("edm", {"name": "edm"}),
    consistency(1.0, reuse=False),
    consistency(1.0, reuse=True),
    consistency(0.1, reuse=True),
    Case("ddpm, simple", {"name": "simple"}, 1.05, "ddpm"),
    Case("ddpm, hybrid", {"name": "hybrid"}, 1.10, "ddpm"),
    Case("ct", {"name": "ct"}),
    Case("ict", {"name": "ict"}),
    Case("ect", {"name": "ect"}),
    Case("tcm", {"name": "tcm", "teacher": "teacher"}),
    Case("scm", {"name": "uncertainty", "base": {"name": "scm"}}, precond="trigflow"),
    Case("mean_flow", {"name": "mean_flow"}, precond="flow"),
    Case("improved_mean_flow", {"name": "improved_mean_flow"}, precond="flow"),
    Case("imm", {"name": "imm"}, precond="imm"),
    Case("cd", {"name": "cd", "teacher": "teacher"}),
    Case("scd", {"name": "uncertainty", "base": {"name": "scd", "teacher": "teacher"}}, precond="trigflow"),
    Case("progressive", {"name": "progressive", "teacher": "teacher"}),
    Case("dmd2", {"name": "dmd2", "teacher": "teacher"}),
    Case("adversarial(ect)", {"name": "adversarial", "base": {"name": "ect"}}),
]


class Timer:
    """Seconds of one training step with a loss, in all its phases: objective, backward, Adam."""

    def __init__(
        self, loss: dict, side: int, batch: int, device: torch.device, compiled: bool, precond: dict | str = "edm"
    ):
        made = make(loss, "loss")
        spec = made.adapt(NetSpec((side, side), 3))
        precond = {"name": precond} if isinstance(precond, str) else precond
        self.denoiser = make_denoiser(NETWORK, precond, spec).to(device).train()
        if compiled:
            self.denoiser.compiled(click.echo).__enter__()  # to the end of the process
        plain = make_denoiser(NETWORK, {"name": "edm"}, NetSpec((side, side), 3)).to(device)
        made.setup(self.denoiser, lambda path: Teacher(plain))
        self.objective = Objective(self.denoiser, made.to(device))
        self.networks = [self.denoiser.model, plain.model]
        self.networks += [one.model for one in made.modules() if isinstance(one, Preconditioned)]
        self.named = {phase: list(made.parameters_of(self.denoiser, phase)) for phase in made.all_phases}
        self.optimizers = {
            phase: torch.optim.Adam([one for _, one in named], lr=1e-5) for phase, named in self.named.items()
        }
        self.batch, self.side, self.device = batch, side, device

    def units(self, step: Step) -> float:
        """Return the passes of all networks in a step, per image of full size."""
        counted = [0.0]

        def count(network, inputs, *_) -> None:
            x, trains = inputs[0], torch.is_grad_enabled() and next(network.parameters()).requires_grad
            dual = forward_derivatives_active() and forward_ad.unpack_dual(x).tangent is not None
            counted[0] += x.shape[0] * x.shape[2] * x.shape[3] * (1 + dual + 2 * trains)

        handles = [network.register_forward_pre_hook(count) for network in self.networks]
        try:
            self(step)
        finally:
            for handle in handles:
                handle.remove()
        return counted[0] / (self.batch * self.side**2)

    def multiplier(self, step: Step) -> int:
        return self.objective.loss.image_multiplier(step)

    def __call__(self, step: Step) -> float:
        count = self.batch * self.multiplier(step)
        images = torch.rand(count, 3, self.side, self.side, device=self.device) * 2 - 1
        self._wait()
        start = time.perf_counter()
        for phase in self.objective.loss.phases(step):
            with only(self.objective, self.named[phase]):
                self.optimizers[phase].zero_grad(set_to_none=True)
                (self.objective(Batch(images), step.replace(phase=phase)).loss.sum() / count).backward()
                self.optimizers[phase].step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        wait(self.device)


@contextmanager
def only(objective: torch.nn.Module, named: list[tuple[str, torch.nn.Parameter]]) -> Iterator[None]:
    """Context in which these parameters alone need gradients."""
    mine = {id(parameter) for _, parameter in named}
    others = [one for one in objective.parameters() if one.requires_grad and id(one) not in mine]
    for one in others:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in others:
            one.requires_grad_(True)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shortest(timers: list[tuple[Timer, Step]], repeats: int) -> list[float]:
    """Each timer's shortest step after one that warms up; by turns, so that a busy machine is unfair to none."""
    rounds = [[timer(step) for timer, step in timers] for _ in range(repeats + 1)]
    return [min(times) for times in zip(*rounds[1:], strict=True)]


def consistency_rows(side: int, batch: int, device: torch.device, compiled: bool, repeats: int) -> list[dict]:
    """Cost of each case relative to DSM, measured and by the model."""
    timers = [Timer(case.loss, side, batch, device, compiled, case.precond) for case in CASES]
    first = Step(0, 0, 10**6, 0, batch)
    times = shortest([(timer, first) for timer in timers], repeats)
    units = [timer.units(first) for timer in timers]
    return [
        {
            "loss": case.name,
            "images_s": batch / seconds,
            "units": passes,
            "cost_over_edm": seconds / times[0],
            "model_over_edm": passes / units[0],
            "measured_over_model": seconds / times[0] / (passes / units[0]),
            "bound": case.bound,
        }
        for case, seconds, passes in zip(CASES, times, units, strict=True)
    ]


def patch_row(side: int, batch: int, device: torch.device, compiled: bool, repeats: int) -> dict:
    """Images/s of patch training, each size weighted by its probability, over those of full-size training."""
    timer = Timer({"name": "patch", "base": {"name": "edm"}, "real_p": REAL_P}, side, batch, device, compiled)
    steps = {timer.multiplier(step): step for step in (Step(nimg, nimg, 10**6, 0, batch) for nimg in range(100))}
    loss = timer.objective.loss
    times = dict(zip(steps, shortest([(timer, step) for step in steps.values()], repeats), strict=True))
    chances = dict(zip(loss.divisors, loss.probabilities(), strict=True))
    images = sum(chance * batch * divisor for divisor, chance in chances.items())
    seconds = sum(chance * times[divisor] for divisor, chance in chances.items())
    ideal = images / batch / sum(chance / divisor for divisor, chance in chances.items())
    return {
        "loss": f"patch, real_p {REAL_P:g}, {side} px",
        "images_s": images / seconds,
        "full_size_images_s": batch / times[1],
        "speed_over_full_size": images / seconds / (batch / times[1]),
        "ideal": ideal,
    }


def guidance_row(side: int, batch: int, device: torch.device, repeats: int) -> dict:
    """Time of an evaluation with classifier guidance over one without, by a classifier of about a tenth of the FLOP."""
    spec = NetSpec((side, side), 3)
    denoiser = make_denoiser(NETWORK, {"name": "edm"}, spec).to(device).eval()
    small = {"name": "adm_classifier", "model_channels": 32, "channel_mult": [1, 2, 3], "num_blocks": 1}
    classes = NetSpec((side, side), 3, vector={"labels": 10})
    classifier = make_denoiser({**small, "attn_resolutions": [8]}, {"name": "classifier"}, classes).to(device).eval()
    guided = make("classifier", "guidance", denoiser=denoiser, classifier=classifier)
    x, sigma = torch.randn(batch, 3, side, side, device=device), torch.ones(batch, device=device)
    cond = {"labels": torch.eye(10, device=device)[torch.arange(batch) % 10]}
    share = flop(classifier, x, sigma) / flop(denoiser, x, sigma)

    def seconds(function, *arguments) -> float:
        wait(device)
        start = time.perf_counter()
        function(*arguments)
        wait(device)
        return time.perf_counter() - start

    with torch.no_grad():
        rounds = [(seconds(denoiser, x, sigma), seconds(guided, x, sigma, cond)) for _ in range(3 * repeats + 1)]
    plain, with_guidance = (min(times) for times in zip(*rounds[1:], strict=True))
    return {
        "sampling": "classifier guidance",
        "flop_share": share,
        "cost_over_unguided": with_guidance / plain,
        "model_over_unguided": 1 + 3 * share,
        "bound": 1.5,
    }


@click.command()
@click.option("--device", "device_name")
@click.option("--batch", type=click.IntRange(1), help="Images per step.  [default: 20 on a CPU, 256 on a GPU]")
@click.option("--side", type=click.IntRange(32), default=32, show_default=True, help="Side of CDM's images.")
@click.option("--patch-side", type=click.IntRange(32), default=64, show_default=True, help="Side of full-size images.")
@click.option("--compile", "compiled", type=bool, default=False, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, writable=True), help="Write the rows here too.")
def main(device_name, batch, side, patch_side, compiled, repeats, json_path):
    """Print one row per loss."""
    device = choose_device(device_name)
    batch = batch or (256 if device.type == "cuda" else 20)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    print(f"{name}; torch {torch.__version__}; {threads} threads; batch {batch}; compile {compiled}", flush=True)
    rows = consistency_rows(side, batch, device, compiled, repeats)
    rows.append(patch_row(patch_side, max(batch // 4, 1), device, compiled, repeats))
    rows.append(guidance_row(side, batch, device, repeats))
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if json_path:
        Path(json_path).write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    cli.run(main)
