"""ECT, consistency training and distillation equal the published programs: pairs, weights, losses, gradients."""

import math

import pytest
import torch

from elucid.training.losses.fewstep.curricula import doubling, growing, halving, target_decay
from elucid.training.losses.fewstep.distances import Distance
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.consistency import ConsistencyPrecond
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch, NetSpec
from tests import vectors
from tests.oracles import step_at
from tests.tiny import Tiny


def load(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.from_numpy(array) for name, array in arrays.items()}


def cases(name):
    return [pytest.param(path, id=path.stem) for path in vectors.cases(f"fewstep/{name}")]


def runs(name):
    return [
        pytest.param(path, index, id=f"{path.stem}-{index}")
        for path in vectors.cases(f"fewstep/{name}")
        for index in range(len(vectors.load(path)[0].get("runs", [])))
    ]


def denoiser_of(case, arrays, kind=EDMPrecond, factor=1.0, precision="fp32", **options):
    classes = arrays["class_labels"].shape[1]
    spec = NetSpec(arrays["images"].shape[2:] if "images" in arrays else (4, 4), 3, vector={"labels": classes})
    made = kind(Tiny(case, factor), spec, precision, **options)
    return (made.double() if precision == "fp64" else made).train()


class Unscaled(ConsistencyPrecond):
    def coefficients(self, sigma):
        c = super().coefficients(sigma)
        return c._replace(c_in=torch.ones_like(c.c_in))


def batch_of(arrays):
    return Batch(arrays["images"], {"labels": arrays["class_labels"]})


def require_gradients(denoiser, loss, norms, tolerance):
    loss.mean().backward()
    found = denoiser.model.grad_norms()
    for name, norm in norms.items():
        assert found.get(name, 0.0) == pytest.approx(norm, rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("path", cases("ect_mapping"))
def test_ect_mapping(path):
    case, arrays = load(path)
    for row in case["rows"]:
        loss = make({"name": "ect", "q": row["q"], "k": row["k"], "b": row["b"], "mapping": row["adj"]}, "loss")
        assert 1 - loss.gap(row["stage"]) == pytest.approx(row["ratio"], abs=1e-12)
        lower = loss.lower(arrays["t"].double(), row["stage"])
        assert (lower - arrays[row["key"]].double()).abs().max() < 1e-5 * arrays["t"].max()
        assert vectors.relative_error(lower, arrays[row["key"]]) < 1e-5


@pytest.mark.parametrize(("path", "index"), runs("ect_loss"))
def test_ect_loss(path, index):
    case, arrays = load(path)
    run = case["runs"][index]
    names = {"adj": "mapping", "P_mean": "noise.P_mean", "P_std": "noise.P_std"}
    options = {names.get(name, name): value for name, value in run["options"].items()}
    noise = {name.partition(".")[2]: options.pop(name) for name in list(options) if name.startswith("noise.")}
    loss = make({"name": "ect", **options, **({"noise": noise} if noise else {})}, "loss")
    denoiser = denoiser_of(case, arrays)
    if f"mask{index}" in arrays:
        denoiser.model.mask = arrays[f"mask{index}"]
    settings = {**case["defaults"], **run["options"]}
    t = (settings["P_mean"] + settings["P_std"] * arrays["level_draw"]).exp()
    r = loss.lower(t, run["stage"])
    assert vectors.relative_error(t, arrays[f"t{index}"]) < 1e-6
    assert vectors.relative_error(r, arrays[f"r{index}"]) < 1e-5
    found = loss.at(denoiser, batch_of(arrays), t, r, arrays["noise_draw"])
    assert vectors.relative_error(found, arrays[f"loss{index}"]) < 1e-5
    require_gradients(denoiser, found, run["grad_norms"], 1e-4)


@pytest.mark.parametrize("path", cases("ect_precond"))
def test_ect_precond(path):
    case, arrays = load(path)
    case = {**case, "parameters": {name.removeprefix("model."): one for name, one in case["parameters"].items()}}
    denoiser = denoiser_of(case, arrays, ConsistencyPrecond, sigma_min=case["sigma_min"], boundary="evaluation")
    cond = {"labels": arrays["class_labels"]}
    for mode in ("train", "eval"):
        found = denoiser.train(mode == "train")(arrays["x"], arrays["sigma"], cond).x0
        assert vectors.relative_error(found, arrays[f"D_{mode}"]) < 1e-6


@pytest.mark.parametrize(("path", "index"), runs("cm_losses"))
def test_cm_losses(path, index):
    case, arrays = load(path)
    run = case["runs"][index]
    name = {"ct": "ct", "cd": "cd"}[run["mode"]]
    options = {
        "distance": run["norm"],
        "weighting": run["weight_schedule"],
        "teacher": "teacher" if name == "cd" else None,
    }
    loss = make({"name": name, "curriculum": "fixed", "end": run["num_scales"] - 1, "start": 1, **options}, "loss")
    denoiser = denoiser_of(case, arrays, ConsistencyPrecond)
    teacher = denoiser_of(case, arrays, EDMPrecond, 1.1)
    loss.setup(denoiser, lambda path: Teacher(teacher))
    loss.average = denoiser_of(case, arrays, ConsistencyPrecond, 0.9)
    grid = loss.grid(run["num_scales"] - 1).float().reshape(-1, 1, 1, 1)
    chosen = arrays[f"indices_{run['num_scales']}"]
    found = loss.at(denoiser, batch_of(arrays), grid[chosen], grid[chosen + 1], arrays["noise"])
    assert vectors.relative_error(found, arrays[run["loss"]]) < 1e-5
    require_gradients(denoiser, found, run["grad_norms"], 1e-4)


@pytest.mark.parametrize("path", cases("cm_losses"))
def test_cm_coefficients(path):
    case, arrays = load(path)
    sigma = arrays["boundary_sigma"].reshape(-1, 1, 1, 1)
    for kind, key in ((ConsistencyPrecond, "boundary_scalings"), (EDMPrecond, "plain_scalings")):
        c = denoiser_of(case, arrays, kind).coefficients(sigma)
        found = torch.stack([c.c_skip.flatten(), c.c_out.flatten(), c.c_in.flatten()])
        assert vectors.relative_error(found, arrays[key]) < 1e-6


@pytest.mark.parametrize("path", cases("cm_schedules"))
def test_cm_schedules(path):
    case, arrays = load(path)
    for row in case["rows"]:
        name, options, total = row["name"], row["options"], row["options"]["total_steps"]
        start, end = options["start_scales"], options["end_scales"]
        for k, scales, decay in zip(
            *(arrays[f"{name}:{part}"].tolist() for part in ("step", "scales", "ema")), strict=True
        ):
            if options["scale_mode"] == "progdist":
                assert halving(k, options["distill_steps_per_iter"], start) == scales
                continue
            intervals = growing(k, total, start, end) if options["scale_mode"] == "progressive" else scales - 1
            assert intervals + 1 == scales
            if options["target_ema_mode"] == "adaptive":
                assert target_decay(options["start_ema"], start, intervals) == pytest.approx(decay, rel=1e-9)
            else:
                assert decay == options["start_ema"]
    for key in (key for key in arrays if key.startswith("karras_sigmas")):
        levels = arrays[key].double()
        assert vectors.relative_error(rho_levels(len(levels) - 1, 0.002, 80.0), levels[:-1]) < 1e-6 and levels[-1] == 0


@pytest.mark.parametrize("path", cases("ict"))
def test_ict_curriculum(path):
    case, arrays = load(path)
    for row in case["schedules"]:
        options = row["options"]
        start, end = options.get("initial_timesteps", 10), options.get("final_timesteps", 1280)
        total = options["total_training_steps"]
        for k, points in zip(arrays[f"step{row['key']}"].tolist(), arrays[f"points{row['key']}"].tolist(), strict=True):
            assert doubling(k, total, start, end) + 1 == points
    loss = make("ict", "loss")
    for key in (key for key in arrays if key.startswith("sigmas:")):
        points = int(key.partition(":")[2])
        grid = loss.grid(points - 1)
        assert vectors.relative_error(grid.flip(0), arrays[key]) < 1e-6
        assert vectors.relative_error(loss.chances(grid).flip(0), arrays[f"probability:{points}"]) < 1e-4
        weights = loss.weighting(grid[:-1], grid[1:], None)
        assert vectors.relative_error(weights.flip(0), arrays[f"weights:{points}"]) < 1e-4


@pytest.mark.parametrize("path", cases("ict"))
def test_ict_example(path):
    """The re-implementation's example: Pseudo-Huber is one of each element, and its network sees x unscaled."""
    case, arrays = load(path)
    loss = make({"name": "ict", "distance": "pixel-huber"}, "loss")
    denoiser = denoiser_of(case, arrays, Unscaled)
    loss.setup(denoiser, lambda path: None)
    grid = loss.grid(doubling(120_000, 400_000, 10, 1280)).float().flip(0).reshape(-1, 1, 1, 1)
    index = arrays["index"]
    found = loss.at(denoiser, batch_of(arrays), grid[index + 1], grid[index], arrays["noise_draw"])
    assert vectors.relative_error(found, arrays["loss"].flatten(1).mean(1)) < 1e-5
    require_gradients(denoiser, found, case["grad_norms"], 1e-3)
    elementwise = Distance("pixel-huber", None)(arrays["huber_a"], arrays["huber_b"])
    assert vectors.relative_error(elementwise, arrays["huber_elementwise"].flatten(1).mean(1)) < 1e-5


def test_pseudo_huber_is_one_of_an_image():
    x, y = torch.randn(3, 3, 4, 4).double(), torch.randn(3, 3, 4, 4).double()
    c = 0.00054 * math.sqrt(48)
    wanted = ((x - y).square().sum((1, 2, 3)) + c**2).sqrt() - c
    assert torch.allclose(Distance("huber", None)(x, y), wanted)


FASTGEN_WEIGHTS = {"default": "gap", "one": "uniform", "sigma_sq": "snr", "sqrt": "root-gap"}


@pytest.mark.parametrize(("path", "index"), runs("fastgen_cm"))
def test_fastgen_cm(path, index):
    """In float64; there, r ends at 0.002, and a distilled pair is an Euler step of the teacher apart."""
    case, arrays = load(path)
    run = case["runs"][index]
    options = {"c": run["huber_const"], "distance": "squares" if run["squared"] else "huber", "r_min": 0.002}
    options |= {"weighting": FASTGEN_WEIGHTS.get(run["weighting"], run["weighting"]), "ratio_limit": 0.999}
    if run["cd"]:
        options |= {"teacher": "teacher", "solver": "euler"}
    loss = make({"name": "ect", **options}, "loss")
    loss.q = 1 / (1 - run["ratio"])  # whose first stage has this ratio
    denoiser, teacher = (denoiser_of(case, arrays, EDMPrecond, factor, "fp64") for factor in (1.0, 1.1))
    loss.setup(denoiser, lambda path: Teacher(teacher))
    t = arrays["t"].reshape(-1, 1, 1, 1)
    r = loss.lower(t, 0)
    found = loss.at(denoiser, batch_of(arrays), t, r, arrays["noise_draw"].double())
    assert vectors.relative_error(found, arrays[f"loss{index}"]) < 1e-7
    require_gradients(denoiser, found, run["grad_norms"], 1e-6)


@pytest.mark.parametrize("path", cases("fastgen_cm"))
def test_fastgen_stages(path):
    case, _ = load(path)
    for row in case["schedule"]:
        options = {"q": row["q"], "ratio_limit": row["ratio_limit"], "double_mimg": row["kimg_per_stage"] / 1000}
        loss = make({"name": "ect", **options}, "loss")
        for value in row["values"]:
            step = step_at(value["iteration"] * row["batch_size"], 10**9)
            assert loss.stage(step) == value["stage"]
            assert 1 - loss.gap(value["stage"]) == pytest.approx(value["ratio"], rel=1e-12)


@pytest.mark.parametrize("path", cases("fastgen_tcm"))
def test_tcm(path):
    case, arrays = load(path)
    options = case["options"]
    asked = {"ratio": options["ratio"], "transition": options["transition_t"], "teacher": "first"}
    loss = make({"name": "tcm", "boundary_weight": options["w_boundary"], **asked}, "loss")
    denoiser, first = (denoiser_of(case, arrays, EDMPrecond, factor, "fp64") for factor in (1.0, 0.9))
    loss.setup(denoiser, lambda path: Teacher(first))
    cond = {"labels": arrays["class_labels"]}
    found = loss.target(denoiser)(arrays["forward_x"], arrays["forward_t"].reshape(-1, 1, 1, 1), cond).x0
    assert vectors.relative_error(found, arrays["forward_out"]) < 1e-9
    t = arrays["t"].reshape(-1, 1, 1, 1)
    pairs = loss.at(denoiser, batch_of(arrays), t, loss.lower(t), arrays["noise_draw"].double())
    assert vectors.relative_error(pairs, arrays["loss"]) < 1e-7
    out = loss.combined(pairs, arrays["t"] < options["transition_t"] + 1e-6)
    assert vectors.relative_error(out.loss.mean(), arrays["total_loss"]) < 1e-7
    assert vectors.relative_error(out.terms["above"].mean(), arrays["cm_loss"]) < 1e-7
    assert vectors.relative_error(out.terms["boundary"].mean(), arrays["loss_boundary"]) < 1e-7
    require_gradients(denoiser, out.loss, case["grad_norms"], 1e-6)


@pytest.mark.parametrize("path", cases("fastgen_tcm"))
def test_truncated_student_t(path):
    case, arrays = load(path)
    for index, row in enumerate(case["log_t"]):
        options = {"P_mean": row["mean"], "P_std": row["std"], "df": row["df"], "low": row["min_t"]}
        noise = make({"name": "truncated_student_t", **options}, "noise")
        exact = torch.from_numpy(noise.quantiles(arrays["log_t_uniform01"].numpy()))
        assert vectors.relative_error(exact, arrays[f"log_t_sample{index}"]) < 1e-9
        drawn = noise.sample(20_000, None, "cpu").flatten().double()
        assert row["min_t"] * (1 - 1e-6) <= drawn.min() and drawn.max() <= 80 * (1 + 1e-6)
        shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        below = [(drawn <= level).double().mean() for level in noise.quantiles(shares.numpy()).tolist()]
        assert (torch.stack(below) - shares).abs().max() < 0.012


@pytest.mark.parametrize("path", cases("cm_losses"))
def test_progressive_distillation(path):
    case, arrays = load(path)
    loss = make({"name": "progressive", "teacher": "teacher"}, "loss")
    denoiser, teacher = denoiser_of(case, arrays), denoiser_of(case, arrays, EDMPrecond, 1.1)
    loss.setup(denoiser, lambda path: Teacher(teacher))
    found = loss.at(denoiser, batch_of(arrays), arrays["progdist_indices"], 8, arrays["noise"])
    assert vectors.relative_error(found, arrays["progdist_loss"]) < 1e-5
