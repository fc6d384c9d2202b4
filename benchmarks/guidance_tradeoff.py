"""Accuracy and distance of samples over the scale of classifier and of classifier-free guidance.

    python benchmarks/guidance_tradeoff.py --out=OUT [--data=ZIP --test=ZIP] [--kimg=32]     (the plot needs matplotlib)

As figure 4 of Dhariwal & Nichol 2021, on small images: one class-conditional DDPM, trained with dropped labels, and one
noisy classifier. Accuracy is that of a support vector classifier of pixels, distance Fréchet's in features of
efflite0. The scale w of classifier-free guidance means D_u + (1 + w)(D_c - D_u), so that 0 is no guidance for both.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.compare_losses import call  # noqa: E402
from benchmarks.ddpm_study import SAMPLES, prepare, scores  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402

SMALL = ["--preset=demo", "--set=loop.grid_images=0", "--device=cpu"]
MODELS = {
    "model": ["--precond=ddpm", "--arch=adm_unet", "--set=network.channels_per_head=24"],
    "classifier": [
        *("--precond=ddpm_classifier", "--arch=adm_classifier", "--label_dropout=0", "--ema=0"),
        *("--set=network.channels_per_head=24", "--optimizer=adamw", "--set=optimizer.weight_decay=0.05"),
    ],
}
SAMPLER = ["--sampler=ddim", "--respacing=ddim25"]


def train(name: str, kimg: float, out: Path) -> Path:
    """Train a model, or go on with it; returns its run folder."""
    run = out / name
    if not (out / f"{name}.done").exists():
        places = [f"--data={out / 'train.zip'}", f"--outdir={run}", "--nosubdir", "--resume=auto"]
        call("train.py", *SMALL, *MODELS[name], f"--duration={kimg / 1000}", *places, log=out / f"{name}.txt")
        (out / f"{name}.done").touch()
    return run


def flags_of(kind: str, scale: float, classifier: Path) -> list[str]:
    """Return the sampling flags of a kind of guidance at a scale; 0 is the same for both."""
    if scale == 0:
        return SAMPLER
    if kind == "classifier":
        return [*SAMPLER, f"--classifier={classifier}", f"--classifier_scale={scale}"]
    return [*SAMPLER, f"--cfg={1 + scale}"]


def plot(scales: list[float], results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw accuracy and distance over the scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for (kind, values), colour in zip(results.items(), ("tab:orange", "tab:blue"), strict=True):
        accuracy, distance = ([one[what] for one in values] for what in ("accuracy", "frechet"))
        axes[0].plot(scales, accuracy, "o-", color=colour, label=kind)
        axes[1].plot(scales, distance, "o-", color=colour)
        axes[2].plot(distance, accuracy, "o-", color=colour)
        for scale, x, y in zip(scales, distance, accuracy, strict=True):
            axes[2].annotate(f"{scale:g}", (x, y), textcoords="offset points", xytext=(4, -10), fontsize=7)
    for axis, x, y in zip(
        axes,
        ("scale", "scale", "Fréchet distance, efflite0"),
        ("accuracy, %", "Fréchet distance, efflite0", "accuracy, %"),
        strict=True,
    ):
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.3)
    axes[0].legend(title="guidance", frameon=False)
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", help="Training images with classes.  [default: handwritten digits]")
@click.option("--test", help="Images kept apart.")
@click.option("--kimg", type=float, default=32, show_default=True, help="Thousand images that each model sees.")
@click.option("--samples", type=click.IntRange(2), default=SAMPLES, show_default=True)
@click.option("--scales", type=cli.NumberList(float), default="0,0.5,1,2,4,7,10", show_default=True)
@click.option("--parallel", type=click.IntRange(1), default=2, show_default=True, help="Jobs side by side.")
def main(
    out: Path, data: str | None, test: str | None, kimg: float, samples: int, scales: list[float], parallel: int
) -> None:
    """Train both models, sample at all scales, print the table and draw the plot."""
    out.mkdir(parents=True, exist_ok=True)
    prepare(out, data, test)
    with ThreadPoolExecutor(parallel) as pool:
        model, classifier = pool.map(lambda name: train(name, kimg, out), MODELS)
        jobs = {}
        for kind in ("classifier", "classifier-free"):
            for scale in scales:
                folder = out / (f"{kind}-{scale:g}" if scale else "unguided")
                wanted = (model, folder, out, flags_of(kind, scale, classifier), samples)
                # Both kinds share the samples without guidance.
                jobs[kind, scale] = jobs.get(("classifier", 0.0)) if scale == 0 and kind != "classifier" else None
                jobs[kind, scale] = jobs[kind, scale] or pool.submit(scores, *wanted)
        results = {kind: [jobs[kind, scale].result() for scale in scales] for kind in ("classifier", "classifier-free")}
    print(f"| scale | {' | '.join(f'{kind}: accuracy, % | distance' for kind in results)} |")
    print("|---" * (1 + 2 * len(results)) + "|")
    for index, scale in enumerate(scales):
        cells = [f"{values[index]['accuracy']:.1f} | {values[index]['frechet']:.1f}" for values in results.values()]
        print(f"| {scale:g} | {' | '.join(cells)} |")
    (out / "tradeoff.json").write_text(json.dumps({"scales": scales, "samples": samples, **results}, indent=1))
    plot(scales, results, out / "guidance-tradeoff.png")


if __name__ == "__main__":
    cli.run(main)
