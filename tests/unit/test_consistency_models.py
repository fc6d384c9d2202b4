"""Consistency models in training: dropout masks, targets, second stages, teachers that students replace."""

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import step_at

SMALL = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
SPEC = NetSpec((8, 8), 1)


def denoiser(seed=0, precond="edm", dropout=0.0, **options):
    torch.manual_seed(seed)
    made = make_denoiser({**SMALL, "dropout": dropout}, {"name": precond, **options}, SPEC)
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.train()


def batch(count=6):
    return Batch(torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1)


def set_up(name, student, teacher=None, **options):
    given = {"teacher": "teacher.pkl"} if teacher is not None else {}
    loss = make({"name": name, **given, **options}, "loss")
    loss.check(student)
    loss.setup(student, lambda path: Teacher(teacher))
    return loss


@pytest.mark.parametrize("teacher", [False, True])
def test_both_sides_have_the_same_dropout(teacher):
    """Of two points that almost coincide the predictions do so too, but only with the same masks."""
    student = denoiser(dropout=0.5)
    loss = set_up("ect", student, denoiser(1) if teacher else None)
    t, noise = torch.full((6, 1, 1, 1), 0.7), torch.randn(6, 1, 8, 8)
    near = loss.at(student, batch(), t, t * (1 - 1e-6), noise) * t.flatten() * 1e-6  # without the weight
    assert near.max() < 1e-3
    one, other = (student(batch().images, t).x0 for _ in range(2))
    assert (one - other).flatten(1).norm(dim=1).min() > 0.05


def test_no_gradient_through_the_lower_point():
    student = denoiser()
    loss = set_up("ect", student)
    t, noise = torch.full((6, 1, 1, 1), 0.7), torch.randn(6, 1, 8, 8)
    calls = []
    student.register_forward_hook(lambda module, inputs, out: calls.append(out.x0.requires_grad))
    loss.at(student, batch(), t, t / 2, noise).sum().backward()
    assert calls == [True, False]


def test_at_level_zero_the_target_is_the_clean_image():
    student = denoiser()
    loss = set_up("ect", student, weighting="uniform")
    t, noise = torch.full((6, 1, 1, 1), 0.7), torch.randn(6, 1, 8, 8)
    found = loss.at(student, batch(), t, torch.zeros_like(t), noise)
    x0 = student(batch().images + t * noise, t).x0
    assert torch.allclose(found, (x0 - batch().images).flatten(1).norm(dim=1), rtol=1e-5)


def test_a_target_follows_the_steps_that_were_taken():
    student = denoiser()
    loss = set_up("ct", student, curriculum="fixed", target_decay=0.75, adaptive=False)
    before = [one.clone() for one in loss.average.parameters()]
    for parameter in student.parameters():
        parameter.data += 1
    loss.after_step(student, step_at(), set())
    assert all(torch.equal(*pair) for pair in zip(before, loss.average.parameters(), strict=True))
    loss.after_step(student, step_at(), {"main"})
    pairs = zip(before, loss.average.parameters(), strict=True)
    assert all(torch.allclose(one + 0.25, other, atol=1e-6) for one, other in pairs)
    assert not any(one.requires_grad for one in loss.average.parameters())
    assert any(name.startswith("average.") for name in loss.state_dict())


@pytest.mark.parametrize("name", ["ict", "ect"])
def test_without_an_average_there_is_no_second_network(name):
    assert not set_up(name, denoiser()).state_dict()


def test_a_student_takes_its_teachers_place():
    student, teacher = denoiser(), denoiser(1)
    loss = set_up("progressive", student, teacher, start=4)  # stages of a fifth, a fifth, ...: 4, 2, 2, 1, 1
    numbers = [loss.steps(step_at(nimg, 1000, 10)) for nimg in range(0, 1000, 200)]
    assert numbers == [4, 2, 2, 1, 1]
    assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), loss.teacher.parameters(), strict=True))
    for nimg, replaced in ((100, False), (190, True)):
        loss.after_step(student, step_at(nimg, 1000, 10), {"main"})
        same = [torch.equal(*pair) for pair in zip(student.parameters(), loss.teacher.parameters(), strict=True)]
        assert all(same) is replaced


def test_a_student_of_another_kind_cannot_replace_its_teacher():
    with pytest.raises(UserError, match="VPPrecond, the run EDMPrecond"):
        set_up("progressive", denoiser(), denoiser(precond="vp"))


def test_two_steps_of_the_teacher():
    """The student's loss is 0 if one of its steps is two of the teacher's, as of a straight flow."""

    student = denoiser()
    loss = set_up("progressive", student, denoiser(1))
    student.forward = loss.teacher.forward = lambda x, sigma, cond=None: Prediction(torch.zeros_like(x))
    place = torch.arange(6) % 4
    assert loss.at(student, batch(), place, 4, torch.randn(6, 1, 8, 8)).abs().max() < 1e-8


def test_a_share_of_the_batch_is_at_the_boundary():
    loss = set_up("tcm", denoiser(), denoiser(1), boundary_share=0.25)
    counts = [loss.count(6, step_at(nimg)) for nimg in range(200)]
    assert set(counts) == {1, 2} and abs(sum(counts) / 200 - 1.5) < 0.15
    t, r = loss.levels(denoiser(), batch(64), step_at())
    assert (t[:16] == 1).all() and (t >= 1).all() and (r < t).all() and t[16:].max() > 10
    pairs = torch.arange(8.0)
    out = loss.combined(pairs, torch.arange(8) < 2)
    assert float(out.loss.mean()) == pytest.approx(pairs[2:].mean() + 0.1 * pairs[:2].mean())
    assert float(out.terms["boundary"].mean()) == pytest.approx(0.5)


def test_below_the_transition_the_first_stage_is_the_target():
    student, first = denoiser(), denoiser(1)
    loss, x = set_up("tcm", student, first), torch.randn(2, 1, 8, 8)
    sigma = torch.tensor([0.9, 1.1]).reshape(-1, 1, 1, 1)
    found = loss.target(student)(x, sigma, {}).x0
    assert torch.equal(found[0], first(x, sigma).x0[0]) and torch.equal(found[1], student(x, sigma).x0[1])


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"name": "ct", "curriculum": "slow"}, "curriculum='slow'"),
        ({"name": "ct", "start": 0}, "loss.start=0"),
        ({"name": "ct", "target_decay": 1.0}, "target_decay=1"),
        ({"name": "cd", "solver": "rk4"}, "solver='rk4'"),
        ({"name": "tcm", "ratio": 1.0}, "loss.ratio=1"),
        ({"name": "tcm", "boundary_share": 0.0}, "boundary_share=0"),
        ({"name": "progressive", "start": 6}, "loss.start=6"),
        ({"name": "ect", "weighting": "none"}, "weighting='none'"),
        ({"name": "ect", "c": -1.0}, "loss.c=-1"),
        ({"name": "ect", "ratio_limit": 0.0}, "ratio_limit=0"),
    ],
    ids=str,
)
def test_impossible_numbers(component, message):
    with pytest.raises(UserError, match=message):
        make(component, "loss")


@pytest.mark.parametrize("name", ["cd", "tcm", "progressive"])
def test_a_teacher_must_be_given(name):
    with pytest.raises(UserError, match=f"loss {name} needs .*`teacher`"):
        make(name, "loss").check(denoiser())


def test_pairs_never_coincide():
    """A late stage of a large q: 256^-8 of t is nothing in float32, and 0 times 1 / 0 no loss."""
    student = denoiser()
    loss = set_up("ect", student, q=256.0)
    t, r = loss.levels(student, batch(64), step_at(999, 1000))
    assert (r < t).all() and loss.at(student, batch(64), t, r, torch.randn(64, 1, 8, 8)).isfinite().all()
    bounded = set_up("ect", student, r_min=0.002)
    assert all((r < t).all() for t, r in (bounded.levels(student, batch(64), step_at(nimg)) for nimg in range(20)))


@pytest.mark.parametrize("name", ["ct", "ect", "cd", "tcm"])
def test_all_parameters_are_used(name):
    from elucid.training.objective import Objective

    student, teacher = denoiser(), denoiser(1)
    loss = set_up(name, student, teacher if name in ("cd", "tcm") else None)
    objective = Objective(student, loss)
    assert objective.uses_all_parameters
    objective(batch(), step_at()).loss.sum().backward()
    assert all(one.grad is not None for one in student.parameters())


def test_the_second_stage_is_sampled_where_it_was_trained():
    from elucid.training.losses.fewstep.tcm import TCM

    assert min(TCM.sampling["schedule"]["levels"]) >= make({"name": "tcm", "teacher": "x"}, "loss").transition


def test_a_transfer_between_scalings_is_said(tmp_path):
    from elucid.training.snapshots.transfer import otherwise_scaled

    assert otherwise_scaled(denoiser(), denoiser(precond="trigflow"))
    assert otherwise_scaled(denoiser(), denoiser(precond="cm", time_scale=1000.0))
    assert not otherwise_scaled(denoiser(), denoiser(precond="cm"))


def test_a_teacher_computes_in_the_runs_precision(tmp_path):
    from elucid.training.snapshots.transfer import load_teacher
    from tests.snapshots import save_random_snapshot

    path = save_random_snapshot(tmp_path / "model.pkl", size=8)
    assert load_teacher(str(path), "cpu", "bf16").denoiser.precision == "bf16"
    assert load_teacher(str(path), "cpu").denoiser.precision == "fp32"
