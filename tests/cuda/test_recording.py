"""Recorded calls of a network have the bits of ordinary ones, and wait for nothing."""

import pytest
import torch

from elucid.torch_utils.graphs.recording import Recording, recorded
from tests.cuda.runs import CPU, DEVICE, RECIPES, away_from_the_start, new_run, no_waits

if DEVICE == CPU:
    pytest.skip("there are no graphs on the CPU", allow_module_level=True)


@pytest.mark.parametrize("recipe", ["edm", "adm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calls_have_the_same_bits(recipe, precision, tmp_path):
    """Also after the weights have changed, and for another number of images."""
    run = new_run(tmp_path, RECIPES[recipe], precision=precision)
    run.stream.close()
    denoiser = next(iter(run.ema.averages.values()))
    away_from_the_start(denoiser.model)
    inputs = [torch.randn(count, 3, 16, 16, device=DEVICE) for count in (4, 4, 4, 2, 2, 2)]
    with torch.no_grad():
        plain = [denoiser(x, 0.5).x0 for x in inputs]
        with recorded([denoiser.model]):
            again = [denoiser(x, 0.5).x0 for x in inputs]
            made = denoiser.model._compiled_call_impl.seen.values()
            assert len(made) == 2 and all(isinstance(one, Recording) for one in made)
            for parameter in denoiser.model.parameters():
                parameter.mul_(1.1)
            with no_waits():
                changed = denoiser(inputs[0], 0.5).x0
        assert torch.equal(changed, denoiser(inputs[0], 0.5).x0)
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))
    assert not torch.equal(changed, plain[0])
