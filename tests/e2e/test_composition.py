"""Every legal combination of preconditioner, loss, data and network trains and samples; the others are refused."""

from itertools import product

import pytest
import torch

from elucid.dnnlib.config import parse_chain
from elucid.dnnlib.errors import UserError
from elucid.preparation.encode import encode
from elucid.training.config.build import build
from elucid.training.config.loss_chains import find_in_chain
from elucid.training.loop import train_step
from elucid.training.noise.schedules import Karras
from elucid.training.run import Run
from elucid.training.sampling.generate import generate
from elucid.training.types import NetSpec
from tests.vaes import save_pictures, save_tiny_vae

CPU = torch.device("cpu")
NETWORKS = {"ddpmpp": 8, "ncsnpp": 8, "adm": 16, "edm2": 8, "transformer": 16}  # channels
U_NETS = ("ddpmpp", "ncsnpp", "adm")
LOSSES = ("{}", "cdm({})", "patch({})", "patch(cdm({}))")
UNCERTAIN = ("uncertainty(edm)", "uncertainty(cdm(edm))", "uncertainty(patch(edm))", "patch(uncertainty(edm))")
COMBINATIONS = [
    *product(("edm", "vp", "ve"), LOSSES, ("pixels", "latents"), U_NETS),
    *product(("edm2",), UNCERTAIN, ("pixels", "latents"), ("edm2", "ddpmpp")),
    *product(("flow",), ("{}", "cdm({})", "uncertainty({})"), ("pixels", "latents"), ("transformer", "ddpmpp")),
    ("edm", "{}", "pixels", "transformer"),
    ("flow", "patch({})", "pixels", "ddpmpp"),
    *product(("ddpm",), ("simple", "cdm(simple)", "hybrid", "patch(hybrid)", "kl"), ("pixels", "latents"), ["adm"]),
]
STEPS, BATCH = 10, 2


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data sets of 16x16 pictures and of the 8x8 latents of these."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("composition")
    pictures = save_pictures(folder / "pictures.zip", count=6)
    vae = save_tiny_vae(folder / "vae")
    encode(str(pictures), folder / "latents.zip", model=str(vae), device="cpu", progress=False)
    return {"pixels": pictures, "latents": folder / "latents.zip"}


def options_of(precond: str, loss: str, network: str, **network_options) -> dict:
    small = {"channel_mult": [1, 2], "channel_mult_emb": 2, "num_blocks": 1, "attn_resolutions": [4]}
    if network == "transformer":
        small = {"patch": 4, "depth": 2, "num_heads": 2}
    chain = parse_chain(loss)
    if (consistency := find_in_chain(chain, "cdm")) is not None:
        consistency["martingale_steps"] = 3
    return {
        "encoder": {"name": "rgb"},
        "augment": {"name": "edm", "p": 0.5},
        "network": {"name": network, "model_channels": NETWORKS[network], **small, **network_options},
        "precond": {"name": precond},
        "loss": chain,
    }


def run_of(path, data: str, parts: dict) -> Run:
    loop = {"batch_size": BATCH, "duration_mimg": 1e-3, "seed": 1, "bench": False}
    if data == "latents":
        parts = {**parts, "encoder": {"name": "vae"}, "augment": None}
    rest = {"optimizer": {"name": "adam", "lr": 1e-3}, "lr_schedule": {"name": "constant", "warmup_kimg": 0.01}}
    rest |= {"ema": "halflife", "sampler": "edm", "schedule": "karras"}
    dataset = {"path": str(path), "use_labels": True, "cache": "none"}
    return Run({**parts, **rest, "dataset": dataset, "loop": loop}, CPU)


@pytest.mark.parametrize(("precond", "loss", "data", "network"), COMBINATIONS)
def test_trains_ten_steps_and_samples(precond, loss, data, network, places):
    run = run_of(places[data], data, options_of(precond, loss.format(precond), network))
    spec = run.denoiser.spec
    assert (spec.latent, spec.spatial) == (data == "latents", {"coords": 2} if "patch" in loss else {})
    before = {name: value.clone() for name, value in run.denoiser.named_parameters()}
    seen = [train_step(run, run.objective) for _ in range(STEPS)]
    run.stream.close()
    assert run.nimg == sum(seen) and (set(seen) > {BATCH} if "patch" in loss else set(seen) == {BATCH})
    assert {"Loss/loss", *(["Loss/consistency"] if "cdm" in loss else [])} <= run.stats.collect().keys()
    still = {name for name, value in run.denoiser.named_parameters() if torch.equal(value, before[name])}
    assert not still, f"these were not trained: {sorted(still)}"
    averaged = next(iter(run.ema.averages.values()))
    samples = next(generate(averaged, run.encoder, [0, 1], schedule=Karras(2), batch_size=2))
    assert samples.images.shape == (2, 3, 16, 16) and samples.images.dtype == torch.uint8
    assert not torch.equal(samples.images[0], samples.images[1])


@pytest.mark.parametrize(
    ("precond", "loss", "changes", "message"),
    [
        ("edm", "cdm(patch(edm))", {}, r"cdm wraps edm, .*, not PatchLoss; write e.g. patch\(cdm"),
        ("edm", "cdm(cdm(edm))", {}, "cdm wraps .*, not ConsistencyLoss"),
        ("edm", "patch(patch(edm))", {}, "use patch once"),
        ("edm", "patch(cdm(patch(edm)))", {}, "not PatchLoss"),
        ("edm", "patch", {}, "`loss`=patch"),
        ("edm", "cdm", {}, "`loss`=cdm"),
        ("edm", "edm(vp)", {}, "`loss`=edm"),
        ("ddpm", "cdm(hybrid)", {}, "cdm wraps .*, not HybridLoss"),
        ("edm", "hybrid", {}, "the loss needs discrete noise levels, EDMPrecond has none"),
        ("edm", "iddpm", {}, "the loss needs discrete noise levels, EDMPrecond has none; use `precond`=iddpm"),
        ("vp", "patch(iddpm)", {}, "the loss needs discrete noise levels, VPPrecond"),
        ("edm", "patch(edm)", {"channel_mult": [1, 1, 1, 1]}, "patches of 4x4 .*`cres`"),
        ("edm", "patch(nothing(edm))", {}, "unknown loss 'nothing'"),
    ],
)
def test_illegal_chains_are_refused_by_name_when_built(precond, loss, changes, message):
    spec = NetSpec(resolution=(16, 16), image_channels=3)
    with pytest.raises(UserError, match=message) as refusal:
        build(options_of(precond, loss, "ddpmpp", **changes), spec, weights=False)
    assert "\n" not in str(refusal.value)


def test_sizes_without_a_chance_are_not_held_against_a_network():
    """Four levels halve 16x16 three times: patches of 4x4 do not, but real_p = 1 never cuts any."""
    options = options_of("edm", "patch(edm)", "ddpmpp", channel_mult=[1, 1, 1, 1])
    options["loss"]["real_p"] = 1.0
    parts = build(options, NetSpec(resolution=(16, 16), image_channels=3), weights=False)
    assert parts.loss.sizes((16, 16)) == [(16, 16)] and parts.denoiser.model.halvings == 3
