"""Public transformers by name and shape: read, told apart, sampled, and written back under their names."""

import argparse
import json
import os
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import elucid
from elucid.api.export import to_state_dict
from elucid.dnnlib.config import resolve
from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.registry.public_transformers import SAMPLING
from elucid.training.registry.transformer_options import CLASSES
from elucid.training.sampling import generate
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from elucid.training.snapshots.transfer import transfer
from elucid.training.snapshots.transformers.families import tidy
from elucid.training.snapshots.transformers.files import state_dicts
from elucid.training.snapshots.transformers.plan import planned
from elucid.training.snapshots.transformers.reader import TABLES
from tests import vectors
from tests.vaes import save_tiny_vae

LISTS = vectors.cases("transformers/checkpoint_names/[!s]*")
NETWORKS = vectors.cases("transformers/*/network*")
FAMILIES = {"DiT": "dit", "SiT": "sit", "JiT": "jit", "LightningDiT": "lightningdit", "REPA": "repa", "DDT": "ddt"}
SIDES = {"jit": lambda name: int(name.rpartition("-")[2]), "lightningdit": lambda _: 16}
UNUSED = ("projectors.", "bn.")


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def listed(stem: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a public list, without the prefix of its file."""
    state = json.loads(next(path for path in LISTS if path.stem == stem).read_text())["state"]
    return {name.removeprefix("net."): tuple(shape) for name, shape in state.items()}


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_list_gives_its_network(path):
    """All public lists, on the meta device: family, sizes, classes, and the network's names and shapes."""
    published, shapes = json.loads(path.read_text()), listed(path.stem)
    plan = planned(shapes, path.with_suffix(".pt"), None, {})
    family = FAMILIES[path.stem.partition("-")[0]]
    channels, side, _ = published["input"][-3:]
    assert (plan.family, plan.spec.image_channels, plan.spec.resolution) == (family, channels, (side, side))
    assert (plan.spec.label_dim, plan.network["null_class"], plan.spec.latent) == (1000, True, family != "jit")
    assert plan.spec.out_channels == channels * (1 + (family in ("dit", "sit")))
    patch = int(re.search(r"/(\d+)", published["name"])[1])
    assert plan.network["patch"] == patch
    if family == "jit":
        assert plan.precond_options["noise_scale"] == side / 256
        assert plan.network["context_start"] == {12: 4, 24: 8, 32: 10}[plan.network["depth"]]
    with torch.device("meta"):
        network = resolve(CLASSES["sit" if family == "repa" else family])(**plan.network)
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert ours == {n: one for n, one in shapes.items() if not n.startswith(UNUSED) and not TABLES.fullmatch(n)}


def case_file(path: Path, folder: Path, **content) -> tuple[Path, dict, dict, dict]:
    """The state dict of a recorded network as a file; its options, its tensors, and what is recorded of it."""
    case, arrays = vectors.load(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    weights = {name: vectors.formula(case["salt"], name, shape) for name, shape in case["parameters"].items()}
    fixed = {name.removeprefix("fixed:"): value for name, value in tensors.items() if name.startswith("fixed:")}
    tables = "pos_embed" if path.parent.name == "jit" else TABLES  # JiT keeps its rotary tables to itself
    fixed = {name: value for name, value in fixed.items() if re.fullmatch(tables, name)}
    kwargs = case["kwargs"]
    options = {"num_classes": kwargs["num_classes"], "num_heads": kwargs.get("num_heads", kwargs.get("num_groups"))}
    options |= {"context_start": kwargs["in_context_start"]} if kwargs.get("in_context_len") else {}
    if path.parent.name == "ddt":
        options |= {"encoder_depth": kwargs["num_encoder_blocks"], "image_size": 8 * tensors["x"].shape[-1]}
    stem = f"{path.parent.name}-{path.stem}"
    return saved(folder / f"{stem}.pt", {**fixed, **weights, **content}), options, tensors, case


@pytest.mark.parametrize("path", NETWORKS, ids=name_of)
def test_the_network_that_is_read_is_the_recorded_one(path, tmp_path):
    """Its output; the same after a snapshot; and the state dict under the original names again."""
    file, options, tensors, case = case_file(path, tmp_path)
    snapshot = load_snapshot(file, adm=options)
    labels = F.one_hot(tensors["y"], case["kwargs"]["num_classes"] + 1)[:, : case["kwargs"]["num_classes"]].float()
    out = snapshot.ema.model(tensors["x"], tensors["t"], {"labels": labels})
    assert vectors.relative_error(out[:, : tensors["out"].shape[1]], tensors["out"]) < 1e-5
    save_snapshot(tmp_path / "ours.pkl", snapshot)
    again = load_snapshot(tmp_path / "ours.pkl")
    assert torch.equal(again.ema.model(tensors["x"], tensors["t"], {"labels": labels}), out)
    assert (again.sampler, again.schedule, again.encoder) == (snapshot.sampler, snapshot.schedule, snapshot.encoder)
    original = {name: one for name, one in torch.load(file).items() if not name.startswith(UNUSED)}
    written = torch.load(to_state_dict(tmp_path / "ours.pkl", tmp_path / "theirs.pt"))
    kept = {name for name in written if name in original or not TABLES.fullmatch(name)}
    assert kept == original.keys()
    for name, value in original.items():
        assert torch.allclose(written[name], value, atol=1e-6 if TABLES.fullmatch(name) else 0, rtol=0), name
    third = load_snapshot(saved(tmp_path / file.name, written), adm=options)
    assert torch.equal(third.ema.model(tensors["x"], tensors["t"], {"labels": labels}), out)


ENDS = {  # (a, b) at the network's time t, and D from its output F and x_t
    "sit": (lambda t: (t, 1 - t), lambda x, t, out: x + (1 - t) * out),
    "lightningdit": (lambda t: (t, 1 - t), lambda x, t, out: x + (1 - t) * out),
    "ddt": (lambda t: (t, 1 - t), lambda x, t, out: x + (1 - t) * out),
    "repa": (lambda t: (1 - t, t), lambda x, t, out: x - t * out),
    "jit": (lambda t: (t, (1 - t) * 16 / 256), lambda x, t, out: out),  # noise scale 16 / 256, of images of 16 pixels
}


@pytest.mark.parametrize("path", [path for path in NETWORKS if path.parent.name in ENDS], ids=name_of)
def test_denoising_is_the_familys(path, tmp_path):
    """D(x_t / a; b / a) is what the family's path and prediction make of the recorded output."""
    file, options, tensors, case = case_file(path, tmp_path)
    denoiser = load_snapshot(file, adm=options).ema
    scales, estimate = ENDS[path.parent.name]
    x, t = tensors["x"], torch.full((len(tensors["x"]), 1, 1, 1), 0.3)
    a, b = scales(t)
    labels = F.one_hot(tensors["y"], case["kwargs"]["num_classes"] + 1)[:, : case["kwargs"]["num_classes"]].float()
    out = denoiser.model(x, t.reshape(-1), {"labels": labels})[:, : x.shape[1]]
    D = denoiser(x / a, b / a, {"labels": labels}).x0
    assert vectors.relative_error(D, estimate(x, t, out)) < 1e-5


def test_dit_predicts_noise_and_variance(tmp_path):
    path = next(path for path in NETWORKS if path.stem == "network_learn_sigma")
    file, options, tensors, _ = case_file(path, tmp_path)
    denoiser = load_snapshot(file, adm=options).ema
    assert denoiser.variance == "learned" and float(denoiser.levels[0]) == pytest.approx(157.41, abs=0.01)
    sigma = denoiser.levels[-500]  # of index 499
    assert float(sigma) == pytest.approx(3.424, abs=1e-3)
    x, times = tensors["x"], torch.full((len(tensors["x"]),), 499.0)
    out = denoiser.model(
        x / (1 + sigma**2).sqrt().float(), times, {"labels": torch.zeros(len(x), 1000)[:, : denoiser.spec.label_dim]}
    )
    prediction = denoiser(x, sigma)
    assert vectors.relative_error(prediction.x0, x - sigma.float() * out[:, : x.shape[1]]) < 1e-5
    assert vectors.relative_error(prediction.var, out[:, x.shape[1] :]) < 1e-5


def smallest(family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the smallest published size; those without a list are cut out of a larger one."""
    if family in ("jit", "lightningdit"):
        return listed({"jit": "JiT-B-16-256", "lightningdit": "LightningDiT-B-1-256"}[family])
    shapes = listed("SiT-S-2-256")
    if family == "repa":
        shapes |= {"final_layer.linear.weight": (16, 384), "final_layer.linear.bias": (16,)}
        shapes |= {"projectors.0.0.weight": (2048, 384)}
    return shapes


@pytest.mark.parametrize("family", [family for family in SAMPLING if family != "ddt"])
def test_the_smallest_of_each_family_is_sampled(family, tmp_path, monkeypatch):
    """From names and shapes alone, by the published sampler, in one step; DDT's smallest is XL (see its network)."""
    monkeypatch.setattr(generate, "block_size", lambda _: 1)  # one image costs as much as a block
    weights = {name: torch.full(shape, 0.01) for name, shape in smallest(family).items()}
    weights["final_layer.linear.weight"].normal_()
    more = {}
    if family != "jit":
        pytest.importorskip("diffusers")
        channels = 32 if family == "lightningdit" else 4
        more["encoder.model"] = str(save_tiny_vae(tmp_path / "vae", channels))
        statistics = {"encoder.mean": [0.0] * channels, "encoder.std": [1.0] * channels}
        more |= statistics if family == "lightningdit" else {}
    more |= {"schedule.respacing": "1"} if family == "dit" else {"schedule.num_steps": 1}
    model = elucid.load(saved(tmp_path / f"{family}-s.pt", weights))
    images = model.sample([0], classes=3, set=more)
    side = model.denoiser.spec.resolution[0] * (1 if family == "jit" else 2)
    assert images.shape == (1, 3, side, side) and images.shape[1] == 3
    assert (model.snapshot.sampler, model.snapshot.schedule) == SAMPLING[family]


SHAPES = listed("SiT-S-2-256") if LISTS else {}
NARROW = {384: 48, 768: 96, 1152: 144, 1536: 192, 2304: 288, 1001: 11}


def narrowed(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights of one block 48 wide, with ten classes, of a published state dict's form."""
    first = {name: shape for name, shape in shapes.items() if not re.match(r"blocks\.([1-9]|1\d|2\d)\.", name)}
    return {name: torch.zeros([NARROW.get(side, side) for side in shape]) for name, shape in first.items()}


SMALL = narrowed(SHAPES)
HEADS = {"num_heads": 6}


def marked(value: float) -> dict:
    return {**SMALL, "final_layer.linear.bias": torch.full((32,), float(value))}


CONTAINERS = {
    "alone": (lambda: SMALL, ["ema"]),
    "training script": (
        lambda: {"model": marked(1), "ema": SMALL, "opt": {"state": {0: SMALL}}, "args": ARGUMENTS},
        ["ema", "model"],
    ),
    "jit": (
        lambda: {
            "model": prefixed("net.", marked(1)),
            "model_ema1": prefixed("net.", SMALL),
            "model_ema2": prefixed("net.", marked(2)),
            "optimizer": {},
            "epoch": 3,
            "args": ARGUMENTS,
        },
        ["model_ema1", "model_ema2", "model"],
    ),
    "lightning": (
        lambda: {
            "state_dict": {
                **prefixed("denoiser.", marked(1)),
                **prefixed("ema_denoiser.", SMALL),
                "vae.x": torch.ones(1),
            }
        },
        ["ema_denoiser", "denoiser"],
    ),
    "module.": (lambda: prefixed("module.", SMALL), ["ema"]),
    "compiled": (lambda: {"ema": prefixed("_orig_mod.", SMALL)}, ["ema"]),
}
ARGUMENTS = argparse.Namespace(model="SiT-S/2", cfg=1.5, shape=(1, 2))


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("form", CONTAINERS)
def test_containers(form, tmp_path):
    content, names = CONTAINERS[form]
    file = saved(tmp_path / "SiT.pt", content())
    assert list(state_dicts(content())) == names
    snapshot = load_snapshot(file, adm=HEADS)
    assert list(snapshot.emas) == names[:1] and float(snapshot.ema.model.final_layer.linear.bias.sum()) == 0
    other = load_snapshot(file, adm=HEADS, ema=names[-1])
    assert float(other.ema.model.final_layer.linear.bias.sum()) == (32 if len(names) > 1 else 0)
    with pytest.raises(UserError, match=f"no average '0.5'; the file has {', '.join(names)}"):
        load_snapshot(file, adm=HEADS, ema="0.5")


def test_a_run_takes_all_that_sit_uses(tmp_path):
    """From a file with the unused half of the outputs to a network without it: the same velocity."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(one.shape, generator=generator) * 0.1 for name, one in SMALL.items()}
    old = load_snapshot(saved(tmp_path / "SiT.pt", weights), adm=HEADS)
    network = {"name": "sit", "depth": 1, "model_channels": 48, "num_heads": 6}
    spec = old.ema.spec.replace(out_channels=4)
    new = make_denoiser(network, {"name": "flow", "time": "data"}, spec).eval()
    report = transfer(old, new)
    assert "left as initialised" not in report and "not used" not in report
    x, labels = torch.randn(2, 4, 32, 32, generator=generator), {"labels": torch.eye(10)[:2]}
    assert torch.allclose(new(x, 0.7, labels).x0, old.ema(x, 0.7, labels).x0, atol=1e-6)
    assert new(x, 0.7, labels).var is None


def test_what_decides_between_dit_and_sit():
    for name, model, family in (
        ("SiT-XL-2-256.pt", None, "sit"),
        ("my_dit.pt", None, "dit"),
        ("weights.pt", "DiT-S/2", "dit"),
        ("DiT.pt", "SiT-S/2", "sit"),
    ):
        assert planned(SHAPES, Path(name), model, {}).family == family, name
    for name in ("weights.pt", "dit-or-sit.pt", "transition.pt"):
        with pytest.raises(UserError, match="a DiT and a SiT alike; say which by .*=DiT-S/2 or SiT-S/2"):
            planned(SHAPES, Path(name), None, {})


def test_options_of_sit(tmp_path):
    given = {**HEADS, "path_type": "GVP", "prediction": "score", "image_size": 256}
    snapshot = load_snapshot(saved(tmp_path / "SiT.pt", SMALL), adm=given)
    process, precond = snapshot.ema.process, snapshot.ema
    assert (type(process).__name__, precond.prediction, precond.time) == ("CosinePath", "score", "data")
    assert snapshot.schedule["t_max"] == 0.999


def test_statistics_of_latents(tmp_path):
    form = {name: shape for name, shape in SHAPES.items() if not name.startswith("final_layer.linear")}
    weights = narrowed({**form, "final_layer.linear.weight": (16, 384), "final_layer.linear.bias": (16,)})
    weights |= {"bn.running_mean": torch.arange(4.0), "bn.running_var": torch.arange(1.0, 5)}
    weights |= {"bn.num_batches_tracked": torch.tensor(7)}
    snapshot = load_snapshot(saved(tmp_path / "x.pt", weights), adm=HEADS)
    deviations = (torch.arange(1.0, 5) + 1e-4).sqrt().tolist()
    assert snapshot.encoder == {"name": "vae", "mean": [0, 1, 2, 3], "std": pytest.approx(deviations), "final_std": 1.0}
    assert snapshot.ema.time == "noise"


MISTAKES = [
    ({"checkpoint_model": "SiT-S/4"}, "=SiT-S/4 has patch=4, but the weights have 2; use DiT-S/2 or SiT-S/2"),
    ({"checkpoint_model": "SiT-B/2"}, "=SiT-B/2 has model_channels=768, but the weights have 384; use"),
    ({"checkpoint_model": "JiT-B/16"}, "=JiT-B/16, but its weights are those of a dit or sit"),
    ({"checkpoint_model": "SiT-S/3"}, "=SiT-S/3 is unknown .did you mean"),
    ({"patch_size": 4}, "patch_size=4, but the weights have 2; leave it out"),
    ({"num_classes": 10}, "num_classes=10, but the weights have 1000 and a row for none"),
    ({"num_classes": 0}, "num_classes=0, but the weights have 1001 rows of labels"),
    ({"num_classes": "ten"}, "num_classes='ten' must be a whole number"),
    ({"image_size": 512}, "image_size=512, but the weights are for 256"),
    ({"path_type": "cubic"}, "path_type='cubic' is unknown; use linear, gvp"),
    ({"num_head": 6}, "no option 'num_head' of a transformer's checkpoint .did you mean 'num_heads'"),
    ({"adm_preset": "imagenet64"}, "no option 'adm_preset' of a transformer's"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=lambda one: str(one)[:40])
def test_options_that_do_not_fit_are_one_line(options, message):
    given = dict(options)
    model = given.pop("checkpoint_model", None)
    with pytest.raises(UserError, match=message) as error:
        planned(SHAPES, Path("SiT.pt"), model, tidy(given))
    assert "\n" not in str(error.value)


DAMAGES = [
    ({"pos_embed": torch.zeros(1, 255, 48)}, "positions .1, 255, 48. are no square of width 48"),
    ({"x_embedder.proj.weight": torch.zeros(48, 4, 4, 4)}, "makes patches of 32 numbers from patches of 64"),
    ({"blocks.0.mlp.fc1.bias": torch.zeros(5)}, r"blocks.0.mlp.fc1.bias have shape \[5\], but the options require"),
    ({"blocks.0.mlp.fc9.bias": torch.zeros(5)}, "unexpected weights model.blocks.0.mlp.fc9.bias"),
    ({"blocks.999.mlp.fc1.bias": torch.zeros(5)}, "larger network than its weights"),
    ({"blocks.0.mlp.fc1.bias": torch.zeros(192, dtype=torch.int64)}, "fc1.bias are torch.int64"),
    ({"blocks.0.mlp.fc1.bias": torch.full((192,), float("nan"))}, "not finite"),
    ({"blocks.0.mlp.fc1.bias": torch.ones(1).expand(1 << 40)}, "larger than the file"),
    ({"blocks.0.mlp.fc1.bias": None}, "lacks the weights model.blocks.0.mlp.fc1.bias"),
    ({"t_embedder.mlp.2.weight": None}, "lacks t_embedder.mlp.2.weight, so it is no DiT"),
    ({"final_layer.linear.weight": None}, "lacks final_layer.linear.weight, so it is no DiT"),
    ({"blocks.0.mlp.fc1.weight": None}, "lacks blocks.0.mlp.fc1.weight, so it is no DiT"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGES, ids=lambda one: str(one)[:40])
def test_weights_that_make_no_network_are_one_line(changes, message, tmp_path):
    weights = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    file = saved(tmp_path / "SiT.pt", weights)
    with pytest.raises(UserError, match=message) as error:
        load_snapshot(file, adm=HEADS)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_heads_that_no_published_model_has(tmp_path):
    file = saved(tmp_path / "SiT.pt", SMALL)
    for options, message in (
        ({}, "do not tell num_heads, and no published model has depth 1 and width 48; give it by `set` network.num_h"),
        ({"num_heads": 7}, "num_heads=7 does not divide a width of 48"),
    ):
        with pytest.raises(UserError, match=message):
            load_snapshot(file, adm=options)


class Touch:
    """Pickled as a call that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_is_refused_and_not_run(tmp_path):
    """Also inside the arguments that are read beside the weights."""
    for content in (
        {"ema": SMALL, "extra": Touch(tmp_path / "sentinel")},
        {"ema": SMALL, "args": argparse.Namespace(model=Touch(tmp_path / "sentinel"))},
    ):
        with pytest.raises(UserError, match="names the callable .*system.*no code was run"):
            load_snapshot(saved(tmp_path / "SiT.pt", content))
    assert not (tmp_path / "sentinel").exists()


def test_damaged_files_are_one_line(tmp_path):
    whole = saved(tmp_path / "SiT.pt", SMALL).read_bytes()
    for end in (40, len(whole) // 2, len(whole) - 10):
        (tmp_path / "SiT-cut.pt").write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged") as error:
            load_snapshot(tmp_path / "SiT-cut.pt")
        assert "\n" not in str(error.value)
