"""Averages of other lengths from the snapshots of a run: export.py ema, generate.py, evaluate.py sweep."""

import json

import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training.ema.profiles import halflife, power
from elucid.training.snapshots.reconstruct import Target, reconstruct, sources_in
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests import scripts
from tests.vaes import save_pictures

STDS = [0.05, 0.075, 0.1, 0.15, 0.2]
FLAGS = [*scripts.TINY, "--batch=4", "--duration=0.0008", "--tick=0.05", "--snap=1", "--dump=0", "--augment=0"]
FLAGS += ["--nosubdir", "--set=ema.name=power", "--set=loop.grid_images=0", "--lr=2e-3", "--cbase=8", "--cres=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training with two averages and sixteen snapshots, and with all lengths tracked."""
    folder = tmp_path_factory.mktemp("averages")
    data = save_pictures(folder / "pictures.zip", count=16)
    for name, stds in (("two", [0.05, 0.1]), ("all", STDS)):
        scripts.run("train.py", *FLAGS, f"--data={data}", f"--outdir={folder / name}", f"--set=ema.stds={stds}")
    return folder


def vector(denoiser) -> torch.Tensor:
    return torch.cat([one.detach().flatten().double() for one in denoiser.parameters()])


def movement(folder) -> float:
    """How far the averages lie apart, which any error is to be compared with."""
    emas = list(load_snapshot(folder).emas.values())
    return float((vector(emas[0]) - vector(emas[-1])).norm())


def test_reconstructed_lengths_are_those_tracked_directly(runs):
    tracked = load_snapshot(runs / "all").emas
    found = reconstruct(runs / "two", [Target(std) for std in STDS])
    assert list(found.snapshot.emas) == ["0.050", "0.075", "0.100", "0.150", "0.200"] == list(tracked)
    for name, one in found.snapshot.emas.items():
        error = (vector(one) - vector(tracked[name])).norm()
        assert error < 0.01 * vector(tracked[name]).norm(), name
        assert error < (1e-5 if name in ("0.050", "0.100") else 0.1) * movement(runs / "all"), name
        assert found.distances[name] < (1e-4 if name in ("0.050", "0.100") else 0.1)
    assert found.snapshot.nimg == 800 and len(found.sources) == 16


def test_an_earlier_time_and_a_poor_length_and_a_half_life(runs, tmp_path):
    early = [one.nimg for one in sources_in(runs / "two", 400)]
    assert early == list(range(52, 401, 52)) or max(early) <= 400
    done = scripts.run("export.py", "ema", runs / "two", "--std=0.01,0.05", "--halflife=0.0002", "--at=0.4",
                       f"--dest={tmp_path / 'a.pkl'}")  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith("averages as of 0.") and "0.010: profile met to" in lines[1]
    assert "poor" in lines[1] and "poor" not in lines[2]
    assert lines[3].startswith("0.0002: profile met to") and lines[4] == str(tmp_path / "a.pkl")
    again = load_snapshot(tmp_path / "a.pkl")
    assert list(again.emas) == ["0.010", "0.050", "0.0002"] and again.nimg == max(early)


def test_from_half_lives_other_half_lives_follow(tmp_path, runs):
    options = {"name": "halflife", "halflife_mimg": [0.0001, 0.0004], "rampup_ratio": 0.2}
    for path in sorted((runs / "two").glob("network-snapshot-*.pkl")):
        snapshot = load_snapshot(path)
        snapshot.options["ema"] = options
        snapshot.emas = dict(zip(("0.0001", "0.0004"), snapshot.emas.values(), strict=True))
        save_snapshot(tmp_path / path.name, snapshot)
    found = reconstruct(tmp_path, [Target(halflife_mimg=0.0001), Target(halflife_mimg=0.0002)])
    assert found.distances["0.0001"] < 1e-3 and found.distances["0.0002"] < 0.2
    first = next(iter(snapshot.emas.values()))
    assert torch.allclose(vector(found.snapshot.emas["0.0001"]), vector(first), atol=1e-4)


def test_snapshots_as_edm2_writes_them(tmp_path, runs):
    """One average a file; thousands of images and its length in the name."""
    snapshot = load_snapshot(runs / "two")
    for name, one in snapshot.emas.items():
        save_snapshot(tmp_path / f"network-snapshot-0000131-{name}.pkl", type(snapshot)({name: one}))
    sources = sources_in(tmp_path)
    assert [one.nimg for one in sources] == [131072, 131072]
    assert sources[1].profiles["0.100"] == power(0.1, 131072)
    found = reconstruct(tmp_path, [Target(0.05)])
    assert torch.allclose(vector(found.snapshot.ema), vector(snapshot.emas["0.050"]), atol=1e-6)


def test_snapshots_of_half_the_size(runs, tmp_path):
    """Rounded to float16, which costs the last bits; constant buffers and weights too large for it stay."""
    for path in sorted((runs / "two").glob("network-snapshot-*.pkl")):
        snapshot = load_snapshot(path)
        save_snapshot(tmp_path / path.name, snapshot, half=True)
    assert (tmp_path / path.name).stat().st_size < 0.6 * path.stat().st_size
    again = load_snapshot(tmp_path / path.name)
    for name, one in snapshot.emas.items():
        assert all(value.dtype == torch.float32 for value in again.emas[name].parameters())
        assert all(map(torch.equal, one.buffers(), again.emas[name].buffers()))
        assert 0 < (vector(one) - vector(again.emas[name])).norm() < 2**-11 * vector(one).norm()
    targets = [Target(std) for std in STDS]
    whole, half = (reconstruct(folder, targets).snapshot.emas for folder in (runs / "two", tmp_path))
    for name, one in whole.items():
        assert (vector(half[name]) - vector(one)).norm() < 2**-11 * vector(one).norm(), name
    large = vector(snapshot.ema).max() * 2**17
    with torch.no_grad():
        next(snapshot.ema.parameters()).fill_(large)
    save_snapshot(tmp_path / "large.pkl", snapshot, half=True)
    assert float(next(load_snapshot(tmp_path / "large.pkl").ema.parameters()).max()) == float(large.float())


def test_a_run_writes_them_and_keeps_its_states_whole(runs, tmp_path):
    flags = [*FLAGS, f"--data={runs / 'pictures.zip'}", "--set=ema.stds=[0.05,0.1]"]
    scripts.run("train.py", *flags, f"--outdir={tmp_path}", "--set=loop.snapshot_precision=fp16")
    half, whole = load_snapshot(tmp_path).emas, load_snapshot(runs / "two").emas
    for name, one in whole.items():
        assert torch.equal(vector(half[name]), vector(one).half().double()), name


def test_a_damaged_snapshot_is_left_out_with_a_warning(runs, tmp_path, capsys):
    paths = sorted((runs / "two").glob("network-snapshot-*.pkl"))
    for path in paths:
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path in (paths[3], paths[-1]) else data)
    found = sources_in(tmp_path)
    assert [one.path.name for one in found] == [path.name for path in paths[:-1] if path != paths[3]]
    assert capsys.readouterr().err.count("left out") == 2


def test_sampling_and_sweep_take_a_length(runs, tmp_path, monkeypatch, capsys):
    common = [f"--network={runs / 'two'}", "--seeds=0,1", "--steps=3", "--batch=2"]
    scripts.run("generate.py", *common, "--ema_std=0.15", f"--outdir={tmp_path / 'made'}")
    scripts.run("export.py", "ema", runs / "two", "--std=0.15", f"--dest={tmp_path / 'averages'}")
    folder = [f"--network={tmp_path / 'averages'}", *common[1:], f"--outdir={tmp_path / 'again'}"]
    scripts.run("generate.py", *folder)
    made, again = (sorted((tmp_path / name).rglob("*.png")) for name in ("made", "again"))
    assert len(made) == 2 and [Image.open(one).tobytes() for one in made] == [
        Image.open(one).tobytes() for one in again
    ]
    flags = [f"--ref={runs / 'pictures.zip'}", "--ema_std=0.05:0.2", "--num=16", "--rounds=1", "--steps=2"]
    scripts.run("evaluate.py", "sweep", runs / "two", *flags, "--metrics=kid", "--detector=random", "--batch=8",
                f"--dest={tmp_path / 'sweep.json'}")  # fmt: skip
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [point[0] for point in found["curves"][0]["series"][0]["points"]] == [0.05, 0.0875, 0.125, 0.1625, 0.2]
    assert 0.05 <= found["about"]["best"]["ema_std"] <= 0.2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--std=0.3"], "0.3 is no relative length"),
        (["--std=0.2:0.1"], "--std"),
        ([], "--std=0.05:0.2, or --halflife"),
        (["--std=0.1", "--at=0.001"], "at most 0.001 kimg"),
        (["--std=0.1,0.1"], "the same name"),
    ],
)
def test_mistakes_are_named(runs, tmp_path, flags, message, monkeypatch, capsys):
    flags = ["ema", runs / "two", *flags, f"--dest={tmp_path / 'a.pkl'}"]
    code, _, said = scripts.call(monkeypatch, capsys, "export.py", *flags)
    assert code == 2 and message in said and not (tmp_path / "a.pkl").exists()


def test_averages_that_are_no_power_functions_cannot_be_given_half_lives(runs, tmp_path):
    done = scripts.run(
        "train.py", *FLAGS, f"--data={runs / 'pictures.zip'}", f"--outdir={tmp_path}", "--ema=0.5", code=2
    )
    assert "halflife_mimg" in done.stderr
    with pytest.raises(UserError, match="give its folder"):
        reconstruct(scripts.newest(runs / "two"), [Target(0.1)])


def test_profiles_of_half_lives_are_the_average_itself():
    """The integral of each is 1; with a ramp-up it equals the recursion, step by step."""
    whole = halflife(2e5, 1e6, 0.05)
    total = sum(whole((place + 0.5) * 1e3) for place in range(1000)) * 1e3
    assert total == pytest.approx(1, rel=1e-3)
    mean, seen, batch = 0.0, 0, 1000
    for _step in range(1000):  # the average of tau
        beta = 0.5 ** (batch / max(min(2e5, 0.05 * seen), 1e-8))
        mean, seen = beta * mean + (1 - beta) * (seen + batch), seen + batch
    wanted = sum((place + 0.5) * 1e3 * whole((place + 0.5) * 1e3) for place in range(1000)) * 1e3
    assert mean == pytest.approx(wanted, rel=5e-3)


def test_half_lives_without_a_ramp_up_lack_the_first_weights():
    early, late = halflife(5e5, 1e6, None), halflife(5e4, 1e6, None)
    assert early.integral == pytest.approx(0.75) and late.integral == pytest.approx(1, abs=1e-5)
    assert halflife(2e5, 1e6, 0.05).integral == pytest.approx(1) and power(0.1, 1e6).integral == pytest.approx(1)
    with pytest.raises(UserError, match="of the first weights"):
        Target(halflife_mimg=0.5).profile(1_000_000, None)
