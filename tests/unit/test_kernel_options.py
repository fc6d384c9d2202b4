"""Options that choose kernels: --deterministic, whose operations must not be refused, memory format, fused norms."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.determinism import deterministic
from elucid.training.config.options import options_from
from elucid.training.config.presets.table import PRESETS
from elucid.training.config.settings import LoopOptions
from elucid.training.config.train_options import TrainOptions
from elucid.training.loop import train_step, working_as_asked
from elucid.training.registry.names import TABLES
from elucid.training.run import Run
from tests import transformers

WITHOUT = {
    *("adaptive_avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"),
    *("avg_pool3d_backward", "max_pool3d_with_indices_backward", "fractional_max_pool2d_backward"),
    *("max_unpool2d", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "reflection_pad1d_backward"),
    *("reflection_pad2d_backward", "reflection_pad3d_backward", "replication_pad1d_backward"),
    *("replication_pad2d_backward", "replication_pad3d_backward", "upsample_linear1d_backward"),
    *("upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "nll_loss2d_forward", "histc"),
    *("_embedding_bag_backward", "_ctc_loss_backward", "put_", "put", "kthvalue", "cumsum", "multinomial"),
}
"""Operations that torch's manual of use_deterministic_algorithms says are refused on CUDA, as far as they are for float
tensors, and multinomial, which calls one of them."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(8):
        path = folder / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_of(pictures, preset="demo", **options) -> Run:
    small = {"network.model_channels": 8, "network.channel_mult": [1], "network.num_blocks": 1}
    small |= {"network.attn_resolutions": [16]}
    small = transformers.shrunk(preset) if PRESETS[preset]["arch"] in transformers.NAMES else small
    small |= {"loop.batch_size": 2, "loop.batch_gpu": None, "dataset.cache": "none", "encoder.name": "rgb"}
    given = {"cond": True, "fp16": None, "seed": 0, "train_on_latents": False}
    flags = TrainOptions(preset=preset, data=pictures, **given, set={**small, **options}).flags()
    return Run(options_from(flags), torch.device("cpu"))


def weights_after(run: Run, steps: int) -> torch.Tensor:
    with working_as_asked(run):
        for _ in range(steps):
            train_step(run, run.objective)
    run.stream.close()
    return torch.cat([one.detach().flatten() for one in run.denoiser.parameters()])


def choices():
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    kernels = (cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled(), cuda.mem_efficient_sdp_enabled())
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, *kernels


def test_settings_are_in_force_during_the_steps_and_not_after(pictures):
    run, before, seen = run_of(pictures, **{"loop.deterministic": True}), choices(), []
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8", "set before anything is computed"
    run.denoiser.register_forward_hook(lambda *_: seen.append(choices()))
    weights_after(run, 1)
    assert seen == [(True, True, False, *before[3:])]
    assert choices() == before != seen[0]


def test_attention_on_a_gpu_has_kernels_with_a_fixed_order():
    with deterministic(True, torch.device("cuda")):
        assert choices()[3:] == (False, False, True)
    assert choices()[3:] == (True, True, True)


def test_benchmarking_is_off():
    assert LoopOptions().bench and not LoopOptions(deterministic=True).bench


def test_on_the_cpu_it_changes_no_bit(pictures):
    options = ({"loop.deterministic": on, "augment": {"name": "edm"}} for on in (False, True))
    plain, fixed = (weights_after(run_of(pictures, **one), 2) for one in options)
    assert torch.equal(plain, fixed)


def test_another_workspace_is_refused(monkeypatch, pictures):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="`deterministic`.*CUBLAS_WORKSPACE_CONFIG=:4096:8, not :0:0"):
        run_of(pictures, **{"loop.deterministic": True})


def test_an_operation_without_such_a_kernel_is_one_line():
    """This one is refused on the CPU as well."""
    with pytest.raises(UserError, match="`deterministic`=1: put_ has no deterministic kernel"):
        with deterministic(True, torch.device("cpu")):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


class Operations(TorchDispatchMode):
    """Notes the operations on floating-point tensors, of the backward pass as well."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name, tensors = func.overloadpacket.__name__, [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
        if name == "multinomial" or any(one.is_floating_point() for one in tensors):
            self.names.add(name)
        return out


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_trains_with_an_operation_that_would_be_refused(pictures, preset):
    if "ema.name=power" in PRESETS[preset].get("set", ()) and "power" not in TABLES["ema"]:
        pytest.skip("no average power")
    if preset.partition("-")[0] in ("cd", "tcm", "scd", "dmd2"):
        pytest.skip("its losses are others' with a teacher, of which there is none here")
    run = run_of(pictures, preset, **({"loss.particles": 2} if preset.startswith("imm") else {}))
    with Operations() as seen:
        train_step(run, run.objective)
    run.stream.close()
    assert ("silu_backward" if PRESETS[preset]["arch"] in transformers.NAMES else "convolution_backward") in seen.names
    assert not seen.names & WITHOUT


def test_channels_last_and_fused_norms_train_the_same(pictures):
    """The averages, from which is sampled, have both as well; states of one memory format go on in the other."""
    plain = run_of(pictures)
    start = plain.state_dict()
    other = run_of(pictures, **{"loop.channels_last": True, "loop.fused_kernels": True})
    for network in (other.denoiser.model, *(average.model for average in other.ema.averages.values())):
        layers = dict(network.named_modules())
        weight = layers["enc.16x16_block0.conv0"].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        assert layers["enc.16x16_block0.norm0"].fused
    other.load_state_dict(start)
    assert not next(iter(other.denoiser.model.enc.values())).weight.is_contiguous(), "loading keeps the format"
    changed = weights_after(other, 2)
    plain.load_state_dict(start)
    assert torch.allclose(weights_after(plain, 2), changed, rtol=1e-4, atol=1e-5)


def test_the_loop_compiles_if_asked(pictures, monkeypatch):
    """Sampling in between, and the steps after it, add no graph; the weights are those without."""
    run, graphs = run_of(pictures, **{"loop.compile": True}), []
    backend = {"backend": lambda module, inputs: graphs.append(module) or module.forward, "fullgraph": True}
    compiled = run.denoiser.compiled
    monkeypatch.setattr(run.denoiser, "compiled", lambda warn: compiled(warn, **backend))
    torch._dynamo.reset()
    with working_as_asked(run):
        train_step(run, run.objective)
        count = len(graphs)
        with torch.no_grad():
            next(iter(run.ema.averages.values()))(torch.ones(3, 3, 16, 16), 1.0, {"labels": torch.zeros(3, 2)})
    assert count > 3
    weights = weights_after(run, 1)
    assert len(graphs) == count
    assert torch.equal(weights, weights_after(run_of(pictures), 2))
