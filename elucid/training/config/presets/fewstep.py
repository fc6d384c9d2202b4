"""Presets of published recipes of one and two steps; docs/fewstep.md has their figures, and what is our choice.

Those that start from a trained model need `transfer`, those that learn from one `teacher`. Sources: Song et al. 2023
(arXiv 2303.01469), Song & Dhariwal 2023 (2310.14189), Geng et al. 2024 (2406.14548), Lee et al. 2024 (2410.14895), Lu &
Song 2024 (2410.11081), Geng et al. 2025 (2505.13447), Zhou et al. 2025 (2503.07565), Yin et al. 2024 (2405.14867).
Our choice, as our sources name none: the averages of ct-*, cd-*, tcm-*, scm-* and scd-*; rates and batches of cd-*,
scm-* and scd-*; lengths of tcm-*, scm-*, scd-* and imm-*; the rate of dmd2-cifar10; l2 for LPIPS; positional for
Fourier features in ict-*.
"""

from typing import Any

from elucid.training.config.presets.discrete import NO_WARMUP, PLAIN_EMA, half_life
from elucid.training.config.presets.edm2 import SIZES
from elucid.training.config.presets.transformers import SD_LATENTS, assignments

CIFAR10 = {"cond": False, "arch": "ddpmpp", "augment": 0.0}
IMAGENET64 = {"cond": True, "arch": "adm", "augment": 0.0, "optimizer": "radam", "lr": 1e-4, "precond": "cm"}
ECT_RATES = {"s": 1e-3, "m": 9e-4, "l": 8e-4, "xl": 7e-4}
MEAN_FLOWS = (("b", 4), ("b", 2), ("l", 2), ("xl", 2))
EPOCH = 50_000
"""Images of CIFAR-10."""


def second_level(points: int, place: int) -> list[float]:
    """Return CM's levels of one step and two: numbers 0 and `place` of EDM's grid of so many points."""
    first, last = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    return [80.0, round((first + place / (points - 1) * (last - first)) ** 7, 6)]


def recipe(base: dict[str, Any], steps: int, batch: int, decay: float, **more: Any) -> dict[str, Any]:
    """Return the flags of so many steps with an average of this decay; `more` has flags, and options with a dot."""
    flags = {**base, "batch": batch, "duration": steps * batch / 1e6, "ema": [half_life(batch, decay)]}
    flags |= {name: value for name, value in more.items() if "." not in name}
    options = {name: value for name, value in more.items() if "." in name}
    warm = [] if "lr_schedule.warmup_kimg" in options else [NO_WARMUP]
    return {**flags, "set": [*assignments(options), *warm, PLAIN_EMA]}


def ect_imagenet(size: str, lr: float) -> dict[str, Any]:
    """Return ECT's recipe of ImageNet-64, from EDM2's networks; its average is EDM2's, as our sources name none."""
    options = {
        "optimizer.betas": [0.9, 0.99],
        "lr_schedule.reference_mimg": 2000 * 128 / 1e6,
        "network.dropout_side": 16,
        "loss.q": 4,
        "loss.c": 0.06,
        "loss.weighting": "karras",
        "loss.noise.P_mean": -0.8,
        "loss.noise.P_std": 1.6,
        "schedule.levels": [80.0, 1.526],
        "ema.name": "power",
        "ema.stds": [0.05, 0.1],
    }
    flags = {"arch": "edm2", "cbase": SIZES[size], "cond": True, "augment": 0.0, "loss": "ect", "lr": lr}
    flags |= {"lr_schedule": "inverse_sqrt", "dropout": 0.4 if size == "s" else 0.5, "precision": "fp16", "ls": 1}
    return {**flags, "batch": 128, "duration": 12.8, "set": [*assignments(options), NO_WARMUP]}


def tcm_imagenet(size: str) -> dict[str, Any]:
    """Return the second stage of ECT's recipe of ImageNet-64."""
    first = ect_imagenet(size, 5e-5)
    dropped = ("loss.", "schedule.")
    return {**first, "loss": "tcm", "set": [one for one in first["set"] if not one.startswith(dropped)]}


def continuous(loss: str, size: str, latents: bool) -> dict[str, Any]:
    """Return sCM's or sCD's recipe with EDM2's networks, in pixels of ImageNet-64 or latents of ImageNet-512."""
    options = {"optimizer.betas": [0.9, 0.99], "loss.base.noise.P_mean": -1.0, "loss.base.noise.P_std": 1.6}
    options |= {"ema.name": "power", "ema.stds": [0.05, 0.1], "network.embedding_type": "positional"}
    options |= {"encoder.name": "edm2_vae"} if latents else {}
    flags = {"arch": "edm2", "cbase": SIZES[size], "cond": True, "augment": 0.0, "precond": "edm", "lr": 1e-4}
    flags |= {"loss": f"uncertainty({loss})", "batch": 2048, "duration": 200_000 * 2048 / 1e6, "precision": "bf16"}
    flags |= {"train_on_latents": True} if latents else {}
    return {**flags, "set": [*assignments(options), NO_WARMUP]}


def mean_flow(size: str, patch: int) -> dict[str, Any]:
    """Return MeanFlow's recipe of ImageNet-256, 240 epochs of SD latents by a transformer.

    Of the guidance in its target our sources have XL's only, so that the others have none.
    """
    options = {
        "network.patch": patch,
        "precond.time_scale": 1000,
        "loss.ratio": 0.25,
        "loss.norm_p": 1.0,
        "loss.norm_eps": 0.01,
        "loss.P_mean": -0.4,
        "loss.P_std": 1.0,
        "optimizer.betas": [0.9, 0.95],
    }
    flags = {"cond": True, "arch": f"sit-{size}", "augment": 0.0, "precond": "flow", "loss": "mean_flow", "lr": 1e-4}
    if size == "xl":
        options |= {"loss.omega": 0.2, "loss.kappa": 0.92, "loss.interval": [0.0, 0.75], "loss.label_dropout": 0.1}
    else:
        flags["label_dropout"] = 0.1
    return recipe(flags, 240 * 1_281_167 // 256, 256, 0.9999, xflip=True, **options, **SD_LATENTS)


FEWSTEP_PRESETS: dict[str, dict[str, Any]] = {
    "ct-imagenet64": recipe(
        IMAGENET64, 800_000, 2048, 0.9999, loss="ct",
        **{"schedule.levels": second_level(201, 106), "sampler.sigma_end": 0.002},
    ),
    "cd-imagenet64": recipe(
        IMAGENET64, 600_000, 2048, 0.9999, loss="cd",
        **{"schedule.levels": second_level(40, 22), "sampler.sigma_end": 0.002},
    ),
    "ict-cifar10": recipe(
        CIFAR10, 400_000, 1024, 0.99993, loss="ict", precond="cm", optimizer="radam", lr=1e-4, dropout=0.3
    ),
    "ict-imagenet64": recipe(
        IMAGENET64, 800_000, 4096, 0.99997, loss="ict", dropout=0.2, **{"network.dropout_side": 16}
    ),
    "ect-cifar10": recipe(
        CIFAR10, 200_000, 128, 0.9999, loss="ect", optimizer="radam", lr=1e-4, dropout=0.2, tick=12.8,
        **{"loss.double_mimg": 250 * 12.8e-3},
    ),
    **{f"ect-imagenet64-{size}": ect_imagenet(size, lr) for size, lr in ECT_RATES.items()},
    "tcm-cifar10": recipe(CIFAR10, 200_000, 128, 0.9999, loss="tcm", optimizer="radam", lr=5e-5, dropout=0.2),
    **{f"tcm-imagenet64-{size}": tcm_imagenet(size) for size in ("s", "xl")},
    "scm-cifar10": recipe(
        CIFAR10, 400_000, 512, 0.9999, loss="uncertainty(scm)", precond="trigflow", optimizer="radam", lr=1e-4,
        dropout=0.2,
    ),
    **{f"{loss}-imagenet64-xl": continuous(loss, "xl", False) for loss in ("scm", "scd")},
    **{f"{loss}-imagenet512-xxl": continuous(loss, "xxl", True) for loss in ("scm", "scd")},
    "mean_flow-cifar10": recipe(
        {**CIFAR10, "augment": 0.12}, 16_000 * EPOCH // 1024, 1024, 0.9999, loss="mean_flow", precond="flow", lr=6e-4,
        dropout=0.2,
        **{
            "network.resample_filter": [1, 3, 3, 1],
            "loss.tr_sampler": "v1",
            "loss.P_mean": -0.6,
            "loss.P_std": 1.6,
            "loss.P_mean_r": -4.0,
            "loss.P_std_r": 1.6,
            "lr_schedule.warmup_kimg": 200 * EPOCH / 1000,
        },
    ),
    **{f"mean_flow-imagenet256-{size}-{patch}": mean_flow(size, patch) for size, patch in MEAN_FLOWS},
    "imm-cifar10": recipe(
        CIFAR10, 100_000, 4096, 0.9999, loss="imm", precond="imm", optimizer="radam", lr=1e-4, **{"loss.k": 15}
    ),
    "imm-imagenet256-xl": recipe(
        {"cond": True, "arch": "sit-xl", "augment": 0.0}, 100_000, 4096, 0.9999, loss="imm", precond="imm",
        optimizer="radam", lr=1e-4, label_dropout=0.1, xflip=True,
        **{"network.patch": 2, "precond.prediction": "v", "precond.second": "difference", **SD_LATENTS},
    ),
    "dmd2-imagenet64": recipe(
        {"cond": True, "arch": "adm", "augment": 0.0}, 200_000, 7 * 40, 0.999, loss="dmd2", lr=2e-6, dropout=0.0,
        precision="bf16",
    ),
    "dmd2-cifar10": recipe(
        {**CIFAR10, "cond": True}, 100_000, 2048, 0.999, loss="dmd2", lr=1e-5, dropout=0.0, precision="bf16"
    ),
}  # fmt: skip
