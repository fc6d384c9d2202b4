"""Alignment of inner features with those of a frozen encoder, and the perceptual loss."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import random_state
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import build
from elucid.training.losses.alignment import as_tokens
from elucid.training.networks.checkpointing import checkpoint_regions
from elucid.training.objective import Objective
from elucid.training.types import Batch, LossOutput, NetSpec
from tests.oracles import step_at
from tests.probes.tokens import Squares, TokenNet

PROBES = "tests/probes/tokens.py"
NETWORK = {"name": f"{PROBES}:TokenNet"}
SQUARES = {"name": f"{PROBES}:Squares"}
ALIGNMENT = {"name": "alignment", "base": {"name": "edm"}, "features": SQUARES, "layer": "block1", "width": 32}


def built(loss: dict, spec: NetSpec | None = None, network: dict = NETWORK, precision: str = "fp32", **options):
    """A denoiser and a loss that is set up."""
    torch.manual_seed(0)
    parts = {"encoder": {"name": "rgb"}, "precond": {"name": "edm"}, "network": network, "loss": loss, **options}
    made = build(parts, spec or NetSpec((8, 8), 3), precision)
    made.loss.setup(made.denoiser.train(), None)
    return made


def batch_of(count: int = 4, channels: int = 3, size: int = 8) -> Batch:
    torch.manual_seed(1)
    return Batch(torch.rand(count, channels, size, size) * 2 - 1)


def outputs(made, batch, step=None, seed: int = 2):
    torch.manual_seed(seed)
    return Objective(made.denoiser, made.loss)(batch, step or step_at())


def test_the_term_is_that_of_the_paper():
    """base - weight * d * mean over tokens of the cosine, each image by itself; the base is what it is without it."""
    made, batch = built({**ALIGNMENT, "weight": 0.3}), batch_of()
    out = outputs(made, batch)
    base = outputs(built({"name": "edm"}), batch)
    torch.testing.assert_close(out.terms["loss"], base.terms["loss"], rtol=1e-6, atol=0)
    heard = []
    handle = made.denoiser.model.register_forward_hook(lambda module, args, found: heard.append(found[1]["block1"]))
    torch.manual_seed(2)
    made.loss.base(made.denoiser, batch, step_at())
    handle.remove()
    encoder = Squares()
    own = made.loss.projectors[0](heard[0])
    cosine = (F.normalize(own, dim=-1) * F.normalize(encoder(batch.images), dim=-1)).sum(-1).mean(-1)
    torch.testing.assert_close(out.terms["alignment"], -cosine.detach(), rtol=1e-5, atol=1e-6)
    total = base.loss - 0.3 * (3 * 8 * 8) * cosine
    torch.testing.assert_close(out.loss, total, rtol=1e-5, atol=1e-4)
    names = [name for name, _ in made.loss.parameters_of(made.denoiser, "main")]
    assert [n for n in names if "projectors" in n] == [
        f"loss.projectors.0.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")
    ]
    assert not any("encoder" in name for name in made.loss.state_dict())


def test_gradients_reach_the_layers_before_it_and_the_projector_but_not_the_encoder():
    made, batch = built(ALIGNMENT), batch_of()
    out = outputs(made, batch)
    (out.loss - outputs(made, batch).loss.detach()).sum().backward()
    grads = {name: one.grad for name, one in made.denoiser.model.named_parameters()}
    assert all(one.grad.norm() > 0 for one in made.loss.projectors.parameters())
    assert all(one.grad is None for one in made.loss.encoders[0].network.parameters())
    base = built({"name": "edm"})
    outputs(base, batch).loss.sum().backward()
    for name, one in base.denoiser.model.named_parameters():
        torch.testing.assert_close(one, made.denoiser.model.get_parameter(name), rtol=0, atol=0)
        changed = not torch.allclose(one.grad, grads[name], rtol=1e-4)
        assert changed == name.startswith(("first", "level", "blocks.0")), name


def test_several_encoders_are_averaged():
    """Each has a projector of its own; grids that differ are resampled."""
    several = [{**SQUARES, "dim": 5, "side": 2}, {**SQUARES, "seed": 1}]
    made, batch = built({**ALIGNMENT, "features": several}), batch_of()
    assert [one[-1].weight.shape[0] for one in made.loss.projectors] == [5, 12]
    assert made.options["loss"]["features"] == [
        {"name": f"{PROBES}:Squares", "dim": 5, "side": 2, "seed": 0},
        {"name": f"{PROBES}:Squares", "dim": 12, "side": 4, "seed": 1},
    ]
    together = outputs(made, batch).terms["alignment"]
    encoders, projectors = list(made.loss.encoders), made.loss.projectors
    alone = []
    for index in (0, 1):
        made.loss.encoders, made.loss.projectors = encoders[index : index + 1], projectors[index : index + 1]
        alone.append(outputs(made, batch).terms["alignment"])
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_from_a_share_of_the_training_on_there_is_only_the_base():
    """The encoder does not run; every parameter still has a gradient, of zero, so that processes need not search."""
    made, batch = built({**ALIGNMENT, "until": 0.5}), batch_of()
    assert "alignment" in outputs(made, batch, step_at(499)).terms
    made.loss.encoders[0].features = None  # calling it would fail
    out = outputs(made, batch, step_at(500))
    assert "alignment" not in out.terms
    torch.testing.assert_close(out.loss, outputs(built({"name": "edm"}), batch).loss, rtol=1e-6, atol=0)
    out.loss.sum().backward()
    assert all(one.grad is not None and not one.grad.any() for one in made.loss.projectors.parameters())


def test_setting_up_draws_only_the_projector():
    """The network that is made before it, and the state of dropout, do not depend on it."""
    made = built(ALIGNMENT)
    assert made.denoiser.training and made.denoiser.model.training
    torch.manual_seed(5)
    made.loss.setup(made.denoiser, None)
    after = random_state(torch.device("cpu"))["cpu"]
    torch.manual_seed(5)
    for shape in ((32, 16), (32, 32), (12, 32)):
        torch.rand(shape)
    assert torch.equal(random_state(torch.device("cpu"))["cpu"], after)


@pytest.mark.parametrize("chain", ["uncertainty", "patch", "cdm"])
def test_it_combines_with_others(chain):
    base = {"name": "edm"}
    loss = {
        "uncertainty": {**ALIGNMENT, "base": {"name": "uncertainty", "base": base}},
        "patch": {"name": "patch", "base": ALIGNMENT},
        "cdm": {**ALIGNMENT, "base": {"name": "cdm", "base": base, "martingale_steps": 2}},
    }[chain]
    made = built(loss, NetSpec((16, 16), 3))
    batch = batch_of(size=16)
    for nimg in (0, 4, 8):
        out = outputs(made, batch, step_at(nimg, batch_size=4))
        assert -1 <= out.terms["alignment"].mean() <= 1 and torch.isfinite(out.loss).all()
    wanted = {"uncertainty": {"u", "weighted"}, "patch": set(), "cdm": {"consistency", "dsm"}}[chain]
    assert wanted <= out.terms.keys()


def test_what_may_be_negative_is_not_divided_by_its_size():
    for inside in (ALIGNMENT, {"name": "patch", "base": ALIGNMENT}):
        with pytest.raises(UserError, match=r"alignment\(uncertainty"):
            built({"name": "uncertainty", "base": inside}, NetSpec((16, 16), 3))


def test_features_may_be_maps():
    """As those of U-Nets would be."""
    as_maps, batch = {**NETWORK, "as_maps": True}, batch_of()
    first, second = (outputs(built(ALIGNMENT, network=one), batch).loss for one in (NETWORK, as_maps))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cosines_are_of_float32(precision):
    """In fp16 without CUDA the network computes in float32."""
    network = {"name": "transformer", "model_channels": 32, "depth": 2, "num_heads": 2}
    whole, batch = built(ALIGNMENT, network=network), batch_of()
    reduced = built(ALIGNMENT, network=network, precision=precision)
    reduced.loss.load_state_dict(whole.loss.state_dict())
    one, other = (outputs(made, batch) for made in (whole, reduced))
    assert other.terms["alignment"].dtype == torch.float32
    torch.testing.assert_close(one.terms["alignment"], other.terms["alignment"], rtol=0, atol=1e-2)
    other.loss.sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in reduced.loss.projectors.parameters())


@pytest.mark.parametrize("how", ["checkpointing", "working weights"])
def test_blocks_may_be_recomputed_or_have_copies_of_their_weights(how):
    network = {"name": "transformer", "model_channels": 32, "depth": 2, "num_heads": 2}
    grads = []
    for special in (False, True):
        made = built(ALIGNMENT, network=network, precision="bf16" if how == "working weights" else "fp32")
        if special and how == "checkpointing":
            checkpoint_regions(made.denoiser.model)
        objective = Objective(made.denoiser, made.loss)
        with working_weights(objective) if special else nullcontext():
            for _ in range(2):  # the first pass finds out what has copies
                objective.zero_grad()
                torch.manual_seed(2)
                objective(batch_of(), step_at()).loss.sum().backward()
        grads.append({name: one.grad for name, one in objective.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()))


def test_gray_and_oblong_images():
    made = built(ALIGNMENT, NetSpec((8, 16), 1))
    torch.manual_seed(1)
    assert made.loss.grid == (4, 8)
    out = outputs(made, Batch(torch.rand(2, 1, 8, 16) * 2 - 1))
    assert out.loss.shape == (2,)


@pytest.mark.parametrize(
    "count, size, grid", [(16, (8, 8), (4, 4)), (32, (8, 16), (4, 8)), (6, (12, 8), (3, 2)), (128, (256, 512), (8, 16))]
)
def test_grid_of_tokens(count, size, grid):
    assert as_tokens(torch.zeros(1, count, 3), size)[1] == grid


def test_tokens_that_are_no_grid():
    with pytest.raises(UserError, match="17 tokens are no grid of images of 8x8"):
        as_tokens(torch.zeros(1, 17, 3), (8, 8))


def test_latents_are_aligned_with_their_pixels(tmp_path):
    """Flipped ones with flipped ones."""
    pytest.importorskip("diffusers")
    from tests.vaes import save_tiny_vae

    vae = {"name": "vae", "model": str(save_tiny_vae(tmp_path / "vae"))}
    dataset = {"xflip": True, "label_dropout": 0.5}
    spec = NetSpec((16, 16), 3, vector={"labels": 2})
    made = built(ALIGNMENT, spec, encoder=vae, dataset=dataset)
    raw = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mirrored = torch.tensor([True, False, True])
    batch = Batch(raw, {"labels": torch.eye(2)[[0, 1, 1]]}, mirrored)
    for transform in made.transforms:
        batch = transform(batch)
    assert batch.images.shape == (3, 4, 8, 8)
    assert torch.equal(batch.raw[0], raw[0].flip(2)) and torch.equal(batch.raw[1], raw[1])
    seen = []
    encoder = made.loss.encoders[0]
    encoder.features = lambda images, was=encoder.features: seen.append(images) or was(images)
    outputs(made, batch)
    assert torch.equal(seen[0], batch.raw / 127.5 - 1)
    # Without the loss, they are not kept.
    made = built({"name": "edm"}, spec, encoder=vae, dataset=dataset)
    batch = Batch(raw, {"labels": torch.eye(2)[[0, 1, 1]]}, mirrored)
    for transform in made.transforms:
        batch = transform(batch)
    assert batch.raw is None


def test_latents_without_their_pixels_are_refused(tmp_path):
    pytest.importorskip("diffusers")
    from tests.vaes import save_tiny_vae

    vae = {"name": "vae", "model": str(save_tiny_vae(tmp_path / "vae"))}
    with pytest.raises(UserError, match="dataset stores their latents.*`data`"):
        built(ALIGNMENT, NetSpec((8, 8), 8, latent=True), encoder=vae)
    with pytest.raises(UserError, match="`augment`=0"):
        built(ALIGNMENT, NetSpec((16, 16), 3), encoder=vae, augment={"name": "pipe", "xflip": 1})
    with pytest.raises(UserError, match="patch.*latents"):
        built({"name": "patch", "base": ALIGNMENT}, NetSpec((32, 32), 3), encoder=vae)
    made = built(ALIGNMENT, NetSpec((16, 16), 3), encoder=vae)
    with pytest.raises(UserError, match="`transform`.*Batch.raw"):
        outputs(made, batch_of(channels=4))
    perceptual = {"name": "perceptual", "base": {"name": "edm"}, "features": SQUARES}
    with pytest.raises(UserError, match="perceptual.*`train_on_latents`"):
        built(perceptual, NetSpec((16, 16), 3), encoder=vae)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight": 0}, "loss.weight=0"),
        ({"width": 0}, "loss.width=0"),
        ({"until": 0}, "loss.until=0"),
        ({"until": 1.5}, "loss.until=1.5"),
        ({"features": []}, "loss.features"),
        ({"base": {"name": "patch", "base": {"name": "edm"}}}, r"patch\(alignment"),
        ({"features": {"name": "dinov3"}}, "dinov3"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message) as error:
        built({**ALIGNMENT, **changes}, NetSpec((16, 16), 3))
    assert "\n" not in str(error.value)


def test_networks_without_the_layer():
    with pytest.raises(UserError, match="block1.*ddpmpp.*`arch`"):
        built(ALIGNMENT, network={"name": "ddpmpp", "model_channels": 8, "channel_mult": [1]})
    with pytest.raises(UserError, match="2 channels"):
        built(ALIGNMENT, NetSpec((8, 8), 2))


def test_a_base_whose_first_prediction_is_of_other_images(monkeypatch):
    made, batch = built(ALIGNMENT), batch_of()

    def half(denoiser, batch, step):
        x0 = denoiser(batch.images[:2], 1.0).x0.square().sum()
        return LossOutput(x0.expand(len(batch)))

    monkeypatch.setattr(made.loss.base, "forward", half)
    with pytest.raises(UserError, match="DSM.*one prediction for each image"):
        outputs(made, batch)


def test_the_term_falls_in_training():
    """By a few steps of Adam on fixed images: the features become those of the encoder."""
    made, batch = built(ALIGNMENT), batch_of(8)
    objective = Objective(made.denoiser, made.loss)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    history = []
    for index in range(40):
        optimizer.zero_grad()
        out = objective(batch, step_at(8 * index, batch_size=8))
        (out.loss.sum() / 8).backward()
        optimizer.step()
        history.append(float(out.terms["alignment"].mean()))
    assert abs(history[0]) < 0.5 and history[-1] < history[0] - 0.3


class TestPerceptual:
    LOSS = {"name": "perceptual", "base": {"name": "edm"}, "features": SQUARES, "weight": 0.2, "below": 0.4}

    def test_only_small_levels_have_the_term(self):
        made, batch = built(self.LOSS, network={**NETWORK, "width": 8}), batch_of(16)
        seen = []
        hook = made.denoiser.register_forward_hook(lambda m, args, out: seen.append((args[1], out.x0.detach())))
        out = outputs(made, batch)
        hook.remove()
        sigma, x0 = seen[0][0].flatten(), seen[0][1]
        encoder = Squares()
        ours, theirs = (F.normalize(encoder(one), dim=-1) for one in (x0, batch.images))
        distance = (ours - theirs).square().sum(-1).mean(-1)
        assert 0 < (sigma < 0.4).sum() < 16
        wanted = torch.where(sigma < 0.4, distance, 0)
        torch.testing.assert_close(out.terms["perceptual"], wanted, rtol=1e-5, atol=1e-6)
        base = outputs(built({"name": "edm"}, network={**NETWORK, "width": 8}), batch)
        torch.testing.assert_close(out.loss, base.loss + 0.2 * 192 * wanted, rtol=1e-5, atol=1e-4)

    def test_gradients_pass_through_the_encoder(self):
        """They are those of finite differences, and none is of the encoder's weights."""
        made = built({**self.LOSS, "below": math.inf})
        torch.manual_seed(3)
        x0, y = (torch.rand(2, 3, 8, 8) * 2 - 1 for _ in range(2))
        x0.requires_grad_()
        made.loss.distance(x0, y).sum().backward()
        step = 1e-2 * torch.randn_like(x0)
        with torch.no_grad():
            ahead, behind = (made.loss.distance(x0 + one, y).sum() for one in (step, -step))
        assert float((x0.grad * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-2)
        assert all(one.grad is None for one in made.loss.features.network.parameters())
        assert float(made.loss.distance(y, y).sum()) == 0

    def test_mistakes(self):
        for changes, message in (({"weight": 0}, "loss.weight"), ({"below": -1}, "loss.below")):
            with pytest.raises(UserError, match=message):
                built({**self.LOSS, **changes})
        with pytest.raises(UserError, match=r"patch\(perceptual"):
            built({**self.LOSS, "base": {"name": "patch", "base": {"name": "edm"}}}, NetSpec((16, 16), 3))


def test_without_features_the_network_gives_none():
    network = TokenNet(8, 3, 3)
    assert isinstance(network(torch.zeros(1, 3, 8, 8), torch.zeros(1), {}), torch.Tensor)
