"""State dicts of the ADM family give networks with those weights under those names; nothing in the files is run."""

import os
import pickle
import zipfile

import pytest
import torch
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.networks.adm_classifier import ADMEncoder
from elucid.training.networks.adm_unet import ADMUNet
from elucid.training.preconds.ddpm import DDPMClassifier, DDPMPrecond
from elucid.training.registry.adm_options import DIFFUSION, network_options
from elucid.training.registry.adm_presets import PRESETS
from elucid.training.snapshots.adm_family import settled
from elucid.training.snapshots.adm_shapes import told
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests import vectors

CASES = vectors.cases("adm_networks/*")
SCHEDULE = {"noise_schedule": "linear", "diffusion_steps": 1000}


def case_named(name):
    return next(path for path in CASES if path.stem == name)


def weights_of(case):
    return {name: vectors.formula(case["salt"], name, shape) for name, shape in case["parameters"].items()}


def options_of(case, arrays):
    """What a user of the original program would have to say: what shapes do not tell."""
    kwargs = case["kwargs"]
    options = {name: kwargs[name] for name in ("num_heads", "num_head_channels") if name in kwargs}
    options["use_new_attention_order"] = kwargs.get("use_new_attention_order", False)
    size = {"large_size": kwargs["image_size"], "small_size": 8} if "low_res" in arrays else {}
    return {**options, **SCHEDULE, **(size or {"image_size": kwargs["image_size"]})}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


FORMS = {
    "zip": lambda weights, path: saved(path, weights),
    "legacy": lambda weights, path: saved(path, weights, _use_new_zipfile_serialization=False),
    "module.": lambda weights, path: saved(path, {f"module.{name}": value for name, value in weights.items()}),
    "state_dict": lambda weights, path: saved(path, {"epoch": 3, "state_dict": weights}),
    "ema": lambda weights, path: saved(
        path, {"model": {name: value + 1 for name, value in weights.items()}, "ema": {"model": weights}}
    ),
    "float16": lambda weights, path: saved(path, {name: value.half() for name, value in weights.items()}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_form_of_file(path, form, tmp_path):
    case, arrays = vectors.load(path)
    weights = weights_of(case)
    denoiser = load_snapshot(FORMS[form](weights, tmp_path / "model.pt"), adm=options_of(case, arrays)).ema
    state = denoiser.model.state_dict()
    assert list(state.keys()) == list(denoiser.model.state_dict().keys()) and state.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(state[name], value.half().float() if form == "float16" else value), name
    assert not denoiser.training and not any(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_network_that_is_read_gives_the_reference_output(path, tmp_path):
    case, arrays = vectors.load(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    snapshot = load_snapshot(saved(tmp_path / "model.pt", weights_of(case)), adm=options_of(case, arrays))
    denoiser, x, cond = snapshot.ema, tensors["x"], {}
    if "low_res" in tensors:
        assert denoiser.spec.spatial == {"lowres": 3}
        enlarged = F.interpolate(tensors["low_res"], x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, enlarged], dim=1)
    if "y" in tensors:
        cond["labels"] = F.one_hot(tensors["y"], denoiser.spec.label_dim).float()
    out = denoiser.model(x, tensors["timesteps"], cond)
    assert vectors.relative_error(out, arrays["out"]) < 1e-5
    assert denoiser.spec.image_channels == 3 and snapshot.dataset["resolution"] == [16, 16]
    save_snapshot(tmp_path / "ours.pkl", snapshot)
    again = load_snapshot(tmp_path / "ours.pkl")
    assert torch.equal(again.ema.model(x, tensors["timesteps"], cond), out) and again.sampler == snapshot.sampler


def test_preconditioners_schedules_and_samplers(tmp_path):
    case, arrays = vectors.load(case_named("unet_cond_learned"))
    options = {**options_of(case, arrays), "noise_schedule": "cosine", "diffusion_steps": "4000"}
    options |= {"rescale_timesteps": "True", "use_fp16": True}
    snapshot = load_snapshot(saved(tmp_path / "m.pt", weights_of(case)), adm=options)
    assert isinstance(snapshot.ema, DDPMPrecond) and snapshot.ema.variance == "learned"
    assert (snapshot.ema.beta_schedule, snapshot.ema.diffusion_steps, snapshot.ema.time_scale) == ("cosine", 4000, 0.25)
    assert snapshot.ema.precision == "fp16" and snapshot.sampler == {"name": "ddpm"}
    assert snapshot.schedule == {"name": "respaced"} and snapshot.dataset["label_dim"] == 10

    case, arrays = vectors.load(case_named("classifier_attention_pool"))
    snapshot = load_snapshot(saved(tmp_path / "c.pt", weights_of(case)), adm={"num_head_channels": 32, **SCHEDULE})
    assert isinstance(snapshot.ema, DDPMClassifier) and snapshot.ema.spec.resolution == (16, 16)  # from the positions
    assert snapshot.dataset["label_dim"] == 10 and snapshot.ema(torch.randn(2, 3, 16, 16), 1.0).shape == (2, 10)

    case, arrays = vectors.load(case_named("unet_plain_ddpm"))
    path = saved(tmp_path / "p.pt", weights_of(case))
    for small, variance in ((False, "large"), (True, "small")):
        assert load_snapshot(path, adm={**options_of(case, arrays), "sigma_small": small}).ema.variance == variance


def shapes_of(preset, classes=1000):
    """Names and shapes of the network that a preset describes."""
    options = {name: value for name, value in PRESETS[preset].items() if name not in DIFFUSION}
    classifier, factor = "classifier_width" in options, 2 if "large_size" in options else 1
    given = {"in_channels": 3 * factor, "out_channels": 3 * (2 if PRESETS[preset].get("learn_sigma") else 1)}
    given |= {"out_channels": classes} if classifier else {}
    given["vector"] = {"labels": classes} if PRESETS[preset].get("class_cond") else {}
    with torch.device("meta"):
        net = (ADMEncoder if classifier else ADMUNet)(**network_options(options), **given)
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


MILLIONS = {
    "imagenet64": 296, "imagenet128": 422, "imagenet256": 554, "imagenet256_uncond": 553, "imagenet512": 559,
    "lsun256": 553, "upsample_64_256": 312, "upsample_128_512": 309, "classifier64": 65, "classifier128": 43,
    "classifier256": 54, "classifier512": 54,
}  # fmt: skip
"""Parameters in the paper's tables, in millions."""


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("minimal")])
def test_presets_are_found_by_their_shapes(preset):
    shapes = shapes_of(preset)
    if preset in MILLIONS:
        count = sum(torch.Size(shape).numel() for shape in shapes.values())
        assert round(count / 1e6) == MILLIONS[preset]
    found, original = settled(told(shapes), {})
    chosen = {**original, "dropout": PRESETS[preset]["dropout"]} if "dropout" in original else original
    assert chosen == PRESETS[preset]
    assert found.classifier == preset.startswith("classifier")


def tiny(path, **changes):
    """A small class-conditional U-Net of guided-diffusion's form, by name and shape alone."""
    options = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "8"}
    options |= {"image_size": 16, "num_heads": 2, "resblock_updown": True, "use_scale_shift_norm": True, **changes}
    net = ADMUNet(**network_options(options), in_channels=1, out_channels=2, vector={"labels": 5})
    weights = {name: torch.full(value.shape, 0.01) for name, value in net.state_dict().items()}
    return weights if path is None else saved(path, weights)


GIVEN = {"image_size": 16, "num_heads": 2, "noise_schedule": "linear"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "no preset has the shapes of this U-Net .model_channels=32.*give its own options image_size"),
        ({"adm_preset": "imagenet64"}, "adm_preset=imagenet64 has num_channels=192, but the weights have 32"),
        ({"adm_preset": "classifier64"}, "options of a classifier, but the weights are a U-Net's"),
        ({"adm_preset": "imagenet46"}, "adm_preset=imagenet46 is unknown .did you mean 'imagenet64'"),
        ({"image_size": 16}, "do not tell num_heads or num_head_channels, noise_schedule; give them"),
        ({**GIVEN, "num_heads": None, "num_head_channels": -1}, "num_heads=None must be an integer"),
        ({**GIVEN, "num_chanels": 32}, "no option 'num_chanels' .*did you mean 'num_channels'"),
        ({**GIVEN, "num_channels": 64}, "num_channels=64, but the weights have 32; leave out"),
        ({**GIVEN, "channel_mult": "1,2,2"}, r"channel_mult=1,2,2, but the weights have \[1, 2\]"),
        ({**GIVEN, "channel_mult": "1,x"}, "channel_mult='1,x' must be a list of numbers"),
        (
            {**GIVEN, "attention_resolutions": "16"},
            r"attention at \[16\] of 16 pixels, but the weights have it at \[8\]",
        ),
        ({**GIVEN, "image_size": "big"}, "image_size='big' must be an integer"),
        ({**GIVEN, "class_cond": False}, "class_cond=False, but the weights have 5 classes"),
        ({**GIVEN, "num_classes": 10}, "num_classes=10, but the weights have 5 classes"),
        ({**GIVEN, "learn_sigma": False}, "take 1 channels and give 2, which does not fit learn_sigma=False"),
        ({**GIVEN, "large_size": 16}, "does not fit image_size=16, large_size=16"),
        ({**GIVEN, "resblock_updown": False}, "resblock_updown=False, but the weights have True"),
        ({**GIVEN, "num_heads": 3}, "cannot have num_heads=3"),
        ({**GIVEN, "noise_schedule": "sigmoid"}, "sigmoid"),
    ],
)
def test_options_that_do_not_fit_are_one_line_with_both_sides(options, message, tmp_path):
    path = tiny(tmp_path / "tiny.pt")
    with pytest.raises(UserError, match=message) as error:
        load_snapshot(path, adm=options)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_small_network_can_be_read_and_used(tmp_path):
    snapshot = load_snapshot(tiny(tmp_path / "tiny.pt"), adm=GIVEN)
    prediction = snapshot.ema(torch.randn(2, 1, 16, 16), torch.tensor([0.5, 3.0]), {"labels": torch.eye(5)[:2]})
    assert prediction.x0.shape == (2, 1, 16, 16) and prediction.var.shape == (2, 1, 16, 16)
    assert load_snapshot(tmp_path / "tiny.pt", ema="ema", adm=GIVEN).emas.keys() == {"ema"}
    with pytest.raises(UserError, match="no average '0.5'"):
        load_snapshot(tmp_path / "tiny.pt", ema="0.5", adm=GIVEN)


def test_heads_override_a_presets_width(tmp_path):
    shapes = {"image_size": 28, "channel_mult": "1,2,2", "attention_resolutions": "14"}
    path = tiny(tmp_path / "tiny.pt", **{**shapes, "num_res_blocks": 2})
    network = load_snapshot(path, adm={**GIVEN, "image_size": 28, "num_head_channels": 16}).ema.model
    assert network.input_blocks[4][1].heads == 4
    _, original = settled(told(shapes_of("imagenet256")), {"adm_preset": "imagenet256", "num_heads": 8})
    assert network_options({"num_heads": 8, "num_head_channels": original["num_head_channels"]})["num_heads"] == 8


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("middle_block.1.norm.bias"), "lacks the weights model.middle_block.1.norm.bias"),
        (
            lambda w: w.update({"middle_block.3.weight": torch.ones(1)}),
            "unexpected weights model.middle_block.3.weight",
        ),
        (lambda w: w.update({"time_embed.2.bias": torch.ones(3)}), "time_embed.2.bias have shape"),
        (lambda w: w.pop("input_blocks.1.0.in_layers.2.weight"), "no ADM network's"),
        (lambda w: w.pop("out.2.weight"), "no ADM network's"),
        (lambda w: w.update({"out.2.bias": torch.ones(2, dtype=torch.int64)}), "out.2.bias are torch.int64"),
        (lambda w: w.update({"out.2.bias": torch.ones(1).expand(1 << 40)}), "larger than the file"),
        (lambda w: w.update({"input_blocks.9999.0.op.weight": torch.ones(1)}), "no ADM network's"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(change, message, tmp_path):
    weights = tiny(None)
    change(weights)
    with pytest.raises(UserError, match=message) as error:
        load_snapshot(saved(tmp_path / "tiny.pt", weights), adm=GIVEN)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_other_torch_files_are_one_line(tmp_path):
    for content, message in (
        ({"format": "elucid-state"}, "training state; give the network-snapshot"),
        ({"layer.weight": torch.ones(2)}, "without an ADM network's weights"),
        ([1, 2], "without an ADM network's weights"),
        (
            {**tiny(None), "loss.weight": torch.ones(1), "a.time_embed.0.weight": torch.ones(1)},
            "no ADM network's|unexpected",
        ),
        ({**{f"module.{name}": value for name, value in tiny(None).items()}, "step": torch.ones(1)}, "it has step"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_snapshot(saved(tmp_path / "file.pt", content), adm=GIVEN)
        assert "\n" not in str(error.value)


class Touch:
    """Pickled as a call that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_refused_and_not_run(new, tmp_path):
    weights = {**tiny(None), "extra": Touch(tmp_path / "sentinel")}
    path = saved(tmp_path / "hostile.pt", weights, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=f"names the callable {os.system.__module__}.system.*no code was run") as error:
        load_snapshot(path, adm=GIVEN)
    assert "\n" not in str(error.value) and not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("new", [True, False])
def test_damaged_files_are_one_line(new, tmp_path):
    whole = saved(tmp_path / "whole.pt", tiny(None), _use_new_zipfile_serialization=new).read_bytes()
    for end in (40, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged") as error:
            load_snapshot(tmp_path / "cut.pt", adm=GIVEN if not new else None)
        assert "\n" not in str(error.value)


def test_zips_of_pictures_and_pickles_are_no_state_dicts(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("00000/img00000000.png", b"")
    with pytest.raises(UserError, match="zip archive"):
        load_snapshot(tmp_path / "pictures.zip")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="no state dict, so it has its own options; leave out image_size"):
        load_snapshot(tmp_path / "plain.pkl", adm=GIVEN)
