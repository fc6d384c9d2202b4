"""Regional compilation: how many graphs, what runs uncompiled, and what is said if it fails."""

import copy
import os
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import codecache
from torch.nn import functional as F

from elucid.torch_utils.compilation import compiled
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser, make_network
from elucid.training.divergence import first_bad_module
from elucid.training.losses.dsm import DSM
from elucid.training.networks.attention import jvp
from elucid.training.networks.regions import regions
from elucid.training.noise.distributions import LogNormal
from elucid.training.objective import Objective
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec, Step
from tests import transformers

CPU = torch.device("cpu")
DDPMPP = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [2, 2, 2], "num_blocks": 4, "attn_resolutions": [8]}
SMALL = {"model_channels": 16, "channel_mult": [1, 1], "num_blocks": 2, "attn_resolutions": [8]}
TINY = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
DEMO = {"name": "ddpmpp", "model_channels": 24, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
NETWORKS = {
    "ddpmpp": DDPMPP,
    "ncsnpp": {**SMALL, "name": "ncsnpp"},
    "adm": {**SMALL, "name": "adm"},
    "adm_unet": {**SMALL, "name": "adm_unet"},
    "with checkpoints": {**SMALL, "name": "adm_unet", "checkpoint": True, "dropout": 0.0},
    "demo": DEMO,
    "edm2": {**SMALL, "name": "edm2", "channels_per_head": 8},
    **{name: transformers.small(name) for name in transformers.SMALL},
}


@pytest.fixture(autouse=True)
def forget():
    """What was compiled before, which would be used again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny networks, which two threads would only wait in
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


class Counting:
    """A backend that counts graphs, and calls of them."""

    def __init__(self):
        self.graphs, self.calls = 0, 0

    def __call__(self, module, inputs):
        self.graphs += 1

        def run(*args):
            self.calls += 1
            return module(*args)

        return run


@contextmanager
def counted(modules):
    """Compile with a counting backend, and fail if anything runs uncompiled."""
    said, backend = [], Counting()
    with compiled(modules, CPU, said.append, backend, fullgraph=True):
        backend.graphs = backend.calls = 0  # without that of the first trial
        yield backend
    assert not said


def made(network: dict, precond: str = "edm"):
    torch.manual_seed(0)
    denoiser = make_denoiser(network, {"name": precond}, NetSpec((16, 16), 3, vector={"labels": 4}))
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter.data, std=0.1)
    return denoiser


def batch(size: int = 2, side: int = 16) -> Batch:
    return Batch(torch.rand(size, 3, side, side), {"labels": torch.eye(4)[torch.arange(size) % 4]})


def evaluated(denoiser, size: int = 2, side: int = 16):
    given = batch(size, side)
    return denoiser(given.images, torch.ones(size), given.cond).x0


def signatures(network, run) -> set:
    """What tells the calls of regions in `run` apart: classes, options and shapes in it, its inputs, and the mode."""
    seen = set()

    def look(region, args):
        parts = []
        for name, module in region.named_modules():
            options = [(key, one) for key, one in vars(module).items() if type(one) in (int, float, str, bool)]
            shapes = [tuple(one.shape) for one in (*module._parameters.values(),) if one is not None]
            parts.append((name, type(module), tuple(options), tuple(shapes)))
        seen.add((tuple(parts), tuple(tuple(one.shape) for one in args), torch.is_grad_enabled()))

    handles = [region.register_forward_pre_hook(look) for region in regions(network)]
    run()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_for_each_signature_and_mode_and_size(name):
    """None runs uncompiled, and turning from training to sampling and back adds none."""
    denoiser = made(NETWORKS[name])

    def train():
        evaluated(denoiser.train()).sum().backward()

    def sample():
        with torch.no_grad():
            evaluated(denoiser.eval())

    alike, blocks = len(signatures(denoiser.model, train)), regions(denoiser.model)
    assert (alike, len(blocks)) == (14, 33) or name != "ddpmpp"
    with counted(regions(denoiser.model)) as backend:
        train()
        assert backend.graphs == alike and backend.calls == len(blocks)
        sample()
        train()
        sample()
        assert backend.graphs == 2 * alike and backend.calls == 4 * len(blocks)
        if name == "demo":
            evaluated(denoiser.train(), 4, 8)
            assert backend.graphs == 3 * alike


@pytest.mark.parametrize("loss", ["cdm", "patch"])
def test_losses_need_as_many_graphs_as_sizes(loss):
    """Those of patches, and those of a path without gradient."""
    denoiser = made({**TINY, "channel_mult": [1] if loss == "cdm" else [1, 1]})
    base = {"name": "edm"}
    options = {"martingale_steps": 3} if loss == "cdm" else {}
    objective = Objective(denoiser, make({"name": loss, "base": base, **options}, "loss"))

    def steps(first, last):
        for index in range(first, last):
            step = Step(index, index * 4, 100, 0, 4)
            size = 2 * objective.loss.image_multiplier(step)
            objective(batch(size), step).loss.sum().backward()

    expected = len(signatures(denoiser.model, lambda: steps(0, 4)))
    assert expected > len(regions(denoiser.model))
    with counted(regions(denoiser.model)) as backend:
        steps(0, 4)
        assert backend.graphs == expected
        steps(0, 4)
        assert backend.graphs == expected


def test_compiled_blocks_compute_the_same():
    denoiser = made({**SMALL, "num_blocks": 1, "name": "adm_unet", "checkpoint": True, "dropout": 0.0})
    whole = gradients(denoiser)
    with denoiser.compiled(pytest.fail, backend="aot_eager", fullgraph=True):
        parts = gradients(denoiser)
    assert max(float((one - other).abs().max()) for one, other in zip(whole, parts, strict=True)) < 1e-5


def gradients(denoiser) -> list[torch.Tensor]:
    denoiser.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    evaluated(denoiser).square().sum().backward()
    return [parameter.grad for parameter in denoiser.parameters()]


def test_the_first_pass_with_working_weights_is_compiled_as_all_are():
    """So a run that is resumed ends with the same bits: which weights to cast is found in a pass apart."""
    denoiser = made({**TINY, "dropout": 0.5}).train()
    denoiser.precision = "bf16"
    outs, states, calls = [], [], []
    with counted(regions(denoiser.model)) as backend, working_weights(denoiser):
        for _ in range(2):
            torch.manual_seed(1)
            before = backend.calls
            outs.append(evaluated(denoiser))
            states.append(torch.get_rng_state())
            calls.append(backend.calls - before)
    assert calls == [len(regions(denoiser.model))] * 2 and denoiser.model.training
    assert torch.equal(*outs) and torch.equal(*states)
    outs[0].sum().backward()
    assert all(one.grad is not None for one in denoiser.parameters())


def test_what_has_hooks_or_forward_derivatives_runs_uncompiled():
    denoiser = made(TINY).eval()
    x, objective = torch.rand(2, 3, 16, 16), Objective(denoiser, DSM(LogNormal()))
    block = denoiser.model.enc["16x16_block0"]

    def derivative():
        return jvp(lambda one: denoiser(one, torch.ones(2), batch().cond).x0, (x,), (x,))[1]

    plain = derivative()
    with counted(regions(denoiser.model)) as backend:
        evaluated(denoiser)
        graphs, calls = backend.graphs, backend.calls
        assert torch.equal(derivative(), plain)
        block.conv1.bias.data[:] = torch.nan
        found = first_bad_module(objective, batch(), Step(0, 0, 1, 0, 2))
        assert (backend.graphs, backend.calls) == (graphs, calls)
    assert found.endswith("denoiser.model.enc.16x16_block0.conv1")


def test_copies_and_pickles_are_not_compiled():
    network = make_network(TINY, NetSpec((16, 16), 3, vector={"labels": 4}))
    with counted(regions(network)) as backend:
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            other(torch.rand(2, 3, 16, 16), torch.ones(2), batch().cond)
        assert backend.graphs == 0
    network(torch.rand(2, 3, 16, 16), torch.ones(2), batch().cond)
    assert backend.graphs == 0


class Strangers(torch.nn.Module):
    """A network from outside that says nothing of regions, with a wait for the host in it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x, c_noise, cond):
        x = self.layer(x)
        return F.silu(x) if x.sum().item() > 0 else F.relu(x)


def test_a_network_without_regions_is_compiled_as_far_as_it_goes():
    """In two graphs, as its forward pass asks for a value."""
    network, backend = Strangers(), Counting()
    denoiser = EDMPrecond(network, NetSpec((4, 4), 3))
    with denoiser.compiled(pytest.fail, backend=backend):
        denoiser(torch.rand(1, 3, 4, 4), 1.0)
    assert backend.graphs == 3, "with the trial before"


def failing(after: int):
    """A backend that fails from the given graph on, of the backward pass as of the forward pass."""
    count = []

    def compile_graph(module, inputs):
        count.append(module)
        if len(count) > after:
            raise RuntimeError("no such compiler\nand more of it")
        return module.forward

    return compile_graph


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_failure_is_one_warning(after):
    """The first graph is that of a trial before the first step; the rest of the network then runs uncompiled, too."""
    denoiser, said = made({**TINY, "dropout": 0.0}), []
    expected = gradients(denoiser)
    with denoiser.compiled(said.append, backend=failing(after)):
        found = gradients(denoiser), gradients(denoiser)
    assert len(said) == 1 and "RuntimeError: no such compiler" in said[0] and "\n" not in said[0]
    for one in found:
        assert all(torch.equal(*pair) for pair in zip(one, expected, strict=True))


def test_a_failure_in_the_backward_pass_is_one_warning():
    denoiser, said = made({**TINY, "dropout": 0.0}), []
    expected = gradients(denoiser)
    backend = aot_autograd(fw_compiler=torch._functorch.compilers.nop, bw_compiler=failing(2))
    with denoiser.compiled(said.append, backend=backend):
        found = gradients(denoiser)
    assert len(said) == 1 and "no such compiler" in said[0]
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))


def test_without_a_folder_for_compiled_code_nothing_is_compiled(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    denoiser, said = made(TINY), []
    with denoiser.compiled(said.append):
        evaluated(denoiser)
    assert len(said) == 1 and f"{tmp_path / 'file' / 'inductor'}: Not a directory" in said[0]


def test_settings_of_torch_are_restored(monkeypatch, tmp_path):
    """Compiled code is kept in the cache, in a folder that nobody else can write to, and so are headers."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    def settings():
        config = torch._dynamo.config, codecache._HEADER_DIR, os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        return config[0].recompile_limit, config[0].optimize_ddp, *config[1:]

    before = settings()
    with counted([]):
        limit, splits, headers, folder = settings()
        assert limit > 100 and not splits
        assert folder == str(tmp_path / "inductor") and headers.startswith(folder)
        assert (tmp_path / "inductor").stat().st_mode & 0o077 == 0
    assert settings() == before
