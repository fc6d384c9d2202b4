"""On CUDA losses, gradients and samples are those of the CPU in float32, and nearly those in bf16."""

import pytest
import torch

from elucid.torch_utils.precision import set_precision
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.loop import accumulate_gradients
from elucid.training.noise.schedules import Karras
from elucid.training.registry.components import make
from elucid.training.registry.names import SAMPLERS
from elucid.training.sampling.generate import generate
from tests.cuda.runs import CPU, DEVICE, NETWORK, RECIPES, away_from_the_start, new_run, numbers_of_the_host

LOSS, GRADIENT = 1e-4, 1e-3
"""Relative errors of the loss and of the whole gradient."""

SMOOTH = {**NETWORK, "dropout": 0.0}


@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_and_gradients_are_those_of_the_cpu(recipe, tmp_path):
    """From the same random numbers, without dropout, which draws on the device, in float32."""
    parts = {**RECIPES[recipe], "network": {**RECIPES[recipe]["network"], "dropout": 0.0}}
    losses, gradients = [], []
    for device in (CPU, DEVICE):
        run = new_run(tmp_path, parts, device, channels_last=False)
        away_from_the_start(run.denoiser.model)
        with numbers_of_the_host():
            accumulate_gradients(run, run.objective, run.step.replace(phase="main"))
        run.stream.close()
        losses.append(run.stats.collect()["Loss/loss"]["mean"])
        found = [one.grad for one in run.denoiser.parameters() if one.grad is not None]
        gradients.append(torch.cat([one.detach().double().cpu().flatten() for one in found]))
    assert losses[0] > 0 and gradients[0].norm() > 0
    assert losses[1] == pytest.approx(losses[0], rel=LOSS)
    assert (gradients[0] - gradients[1]).norm() <= GRADIENT * gradients[0].norm()


def sampled(folder, device, count=4, guidance=None, precision="fp32", states=None, **how) -> torch.Tensor:
    """Images of the seeds 0, 1, ... by a network of random weights, the same on all devices."""
    run = new_run(folder, {**RECIPES["edm"], "network": SMOOTH}, device, precision=precision)
    run.stream.close()
    average, weaker = run.ema.averages.values()
    for seed, one in enumerate((average, weaker)):
        away_from_the_start(one.model, seed)
    denoiser = {
        None: lambda: average,
        "cfg": lambda: ClassifierFreeGuidance(average, 10.0, [0.1, 10.0]),
        "autoguidance": lambda: AutoGuidance(average, weaker, 1.5),
    }[guidance]()
    set_precision(precision, bench=False)
    given = {"device": device, "schedule": Karras(6), "noise": "cpu", **how}
    if states is not None:
        given["callback"] = lambda x, sigma, x0: states.append(x.dtype)
    return torch.cat([one.images.cpu() for one in generate(denoiser, run.encoder, range(count), **given)])


def levels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Differences in gray levels, of images that are neither black nor white all over."""
    assert one.float().std() > 5 and ((one > 0) & (one < 255)).float().mean() > 0.02
    return (one.int() - other.int()).abs()


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_makes_the_images_of_the_cpu(name, tmp_path):
    """From noise of the host, which stochastic samplers draw at each step as well."""
    images = (sampled(tmp_path, device, sampler=make(name, "sampler")) for device in (CPU, DEVICE))
    assert levels(*images).max() <= 1


@pytest.mark.parametrize("guidance", ["cfg", "autoguidance"])
def test_guided_images_are_those_of_the_cpu(guidance, tmp_path):
    images, same = (sampled(tmp_path, device, guidance=guidance) for device in (CPU, DEVICE))
    assert levels(images, same).max() <= 1
    assert levels(images, sampled(tmp_path, CPU)).float().mean() > 0.5, "guidance changes the images"


def test_other_batches_give_the_same_images(tmp_path):
    whole = sampled(tmp_path, DEVICE, count=12, batch_size=12)
    for size in (1, 5):
        assert levels(whole, sampled(tmp_path, DEVICE, count=12, batch_size=size)).max() <= 1


def test_a_seed_of_the_device_is_another(tmp_path):
    """Without --noise=cpu a GPU draws from a generator of its own."""
    if DEVICE.type != "cuda":
        pytest.skip("only CUDA has another generator")
    assert levels(sampled(tmp_path, DEVICE, noise="device"), sampled(tmp_path, DEVICE)).float().mean() > 5


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_lower_precision_changes_images_little(precision, tmp_path):
    """The sampler's state stays float64, so that only the network rounds."""
    states = []
    images, close = (sampled(tmp_path, DEVICE, precision=one, states=states) for one in ("fp32", precision))
    assert set(states) == {torch.float64}
    difference = levels(images, close).float()
    assert difference.mean() < 2
    if DEVICE.type == "cuda" or precision == "bf16":
        assert difference.max() > 0, "the precision is used"
