"""generate.py and example.py as their users call them."""

import io
import json
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from elucid.training.data.dataset import open_dataset
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    return {
        "digits": save_random_snapshot(folder / "digits.pkl", channels=1, classes=5),
        "other": save_random_snapshot(folder / "other.pkl", channels=1, classes=5, seed=9),
        "rgb": save_random_snapshot(folder / "rgb.pkl", channels=3, names=("0.1", "0.5")),
        "named": save_random_snapshot(
            folder / "named.pkl", channels=1, classes=5, class_names=["zebra", "a/b", "cat", "A:B", "ape"]
        ),
        "patch": save_random_snapshot(folder / "patch.pkl", channels=1, classes=5, spatial={"coords": 2}),
    }


@pytest.fixture
def script(root, monkeypatch, capsys):
    """Run a script in this process; returns exit code, stdout and stderr."""

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(root / name), run_name="__main__")
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def generate(script, snapshots, tmp_path):
    """generate.py --network=(a snapshot's name) --outdir=(a folder's name) ..., which must succeed."""

    def call(model, folder, *flags):
        outdir = tmp_path / folder
        code, out, err = script(
            "generate.py", f"--network={snapshots[model]}", f"--outdir={outdir}", "--device=cpu", *flags
        )
        assert code == 0, err
        return {path.relative_to(outdir).as_posix(): path.read_bytes() for path in outdir.rglob("*.png")}

    return call


def pixels(path):
    return np.array(Image.open(path))


def test_an_image_depends_on_its_seed_alone(generate):
    churn = ["--steps=4", "--S_churn=2"]
    together = generate("digits", "together", "--seeds=0-6", *churn)
    assert sorted(together) == [f"{seed:06d}.png" for seed in range(7)]
    assert len(set(together.values())) == 7
    assert Image.open(io.BytesIO(together["000000.png"])).mode == "L"
    assert generate("digits", "one by one", "--seeds=6,2,4,0", "--batch=1", *churn).items() <= together.items()
    assert generate("digits", "by three", "--seeds=1-6", "--batch=3", *churn).items() <= together.items()


def test_the_folder_is_a_labelled_data_set(generate, tmp_path):
    generate("digits", "out", "--seeds=0-5", "--steps=1", "--labels")
    generate("digits", "out", "--seeds=4-9", "--steps=1", "--labels")
    dataset = open_dataset(tmp_path / "out", use_labels=True)
    assert (len(dataset), dataset.channels, dataset.resolution) == (10, 1, (8, 8))
    assert dataset.class_names == [f"kind {index}" for index in range(5)]
    assert len(set(dataset.raw_labels.tolist())) > 1
    generate("digits", "all 3", "--seeds=0-2", "--steps=1", "--labels", "--class=3")
    assert open_dataset(tmp_path / "all 3", use_labels=True).raw_labels.tolist() == [3, 3, 3]


def test_a_class_given_is_the_class_drawn(generate, tmp_path):
    """Noise of the steps is the same whether the class was drawn or given."""
    flags = ["--seeds=0", "--steps=3", "--S_churn=2", "--labels"]
    generate("digits", "drawn", *flags)
    ((_, drawn),) = json.loads((tmp_path / "drawn/dataset.json").read_text())["labels"]
    generate("digits", "given", f"--class={drawn}", *flags)
    generate("digits", "different", f"--class={(drawn + 1) % 5}", *flags)
    images = [pixels(tmp_path / folder / "000000.png") for folder in ("drawn", "given", "different")]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_images_of_each_class_in_folders_of_their_names(generate, tmp_path):
    made = generate("digits", "out", "--per_class=3", "--class_dirs", "--seeds=100", "--steps=1")
    assert list(sorted(made)) == [f"kind {n // 3}/000{100 + n}.png" for n in range(15)]
    alone = generate("digits", "alone", "--seeds=107", "--class=2", "--steps=1")
    assert np.array_equal(pixels(tmp_path / "alone/000107.png"), pixels(tmp_path / "out/kind 2/000107.png"))
    assert list(alone) == ["000107.png"]
    flat = generate("digits", "flat", "--per_class=2", "--steps=1", "--labels")
    assert sorted(flat) == [f"{n:06d}.png" for n in range(10)]
    assert open_dataset(tmp_path / "flat", use_labels=True).raw_labels.tolist() == [n // 2 for n in range(10)]


def test_class_folders_are_a_data_set(generate, script, tmp_path):
    """Also with classes that have no images, and whose folders sort otherwise than they do."""
    names = ["zebra", "a/b", "cat", "A:B", "ape"]
    generate("named", "out", "--seeds=0-6", "--class_dirs", "--steps=1", f"--grid={tmp_path / 'g.png'}")
    code, _, err = script("dataset_tool.py", f"--source={tmp_path / 'out'}", f"--dest={tmp_path / 'out.zip'}")
    assert code == 0, err
    dataset = open_dataset(tmp_path / "out.zip", use_labels=True)
    assert dataset.class_names == names and len(dataset) == 7
    generate("named", "flat", "--seeds=0-6", "--labels", "--steps=1")
    drawn = open_dataset(tmp_path / "flat", use_labels=True).raw_labels.tolist()
    folders = ["zebra", "a_b_0001", "cat", "A_B_0003", "ape"]
    assert tree(tmp_path / "out") == sorted(f"{folders[of]}/00000{seed}.png" for seed, of in enumerate(drawn))
    assert sorted(dataset.raw_labels.tolist()) == sorted(drawn) and len(set(drawn)) < 5


def test_class_folders_are_continued(generate, script, snapshots, tmp_path):
    flags = [f"--outdir={tmp_path / 'out'}", "--device=cpu", "--steps=1", "--class_dirs", "--subdirs"]
    first = generate("digits", "out", "--per_class=2", *flags[2:])
    assert list(sorted(first))[-1] == "kind 4/000000/000009.png"
    (tmp_path / "out/kind 1/000000/000002.png").unlink()
    network = f"--network={snapshots['digits']}"
    code, out, err = script("generate.py", network, *flags, "--per_class=2")
    assert (code, out) == (0, f"{tmp_path / 'out'}: 1 images generated, 9 already present\n"), err
    assert generate("digits", "out", "--per_class=2", *flags[2:]) == first
    code, _, err = script("generate.py", network, *flags, "--per_class=3")  # seed 2 is then of class 0
    assert code == 2 and "kind 1/000000/000002.png" in err and "--overwrite" in err
    other = generate("digits", "out", "--per_class=3", *flags[2:], "--overwrite")
    assert len(other) == 15 and "kind 1/000000/000002.png" not in other
    assert open_dataset(tmp_path / "out", use_labels=True).raw_labels.tolist() == [n // 3 for n in range(15)]


def test_finished_seeds_are_skipped(generate, script, snapshots, tmp_path):
    flags = ["--seeds=0-4", "--steps=1", "--device=cpu"]
    first = generate("digits", "out", *flags, "--labels")
    (tmp_path / "out/000002.png").unlink()
    (tmp_path / "out/dataset.json").unlink()
    old = (tmp_path / "out/000001.png").stat().st_mtime_ns
    code, out, _ = script(
        "generate.py", f"--network={snapshots['digits']}", f"--outdir={tmp_path / 'out'}", *flags, "--labels"
    )
    assert (code, out) == (0, f"{tmp_path / 'out'}: 1 images generated, 4 already present\n")
    assert generate("digits", "out", *flags) == first
    assert (tmp_path / "out/000001.png").stat().st_mtime_ns == old
    labels = dict(json.loads((tmp_path / "out/dataset.json").read_text())["labels"])
    generate("digits", "again", *flags, "--labels")
    assert labels == dict(json.loads((tmp_path / "again/dataset.json").read_text())["labels"])


def test_images_of_other_options_are_not_taken_for_finished(generate, script, snapshots, tmp_path):
    flags = ["--seeds=0-2", "--steps=2", "--device=cpu"]
    first = generate("digits", "out", *flags)
    for model, extra in (("digits", "--rho=5"), ("digits", "--class=1"), ("other", "--batch=2")):
        out = [f"--network={snapshots[model]}", f"--outdir={tmp_path / 'out'}", *flags, extra]
        code, _, err = script("generate.py", *out)
        assert code == 2 and "000000.png" in err and "--overwrite" in err
    assert generate("other", "out", *flags, "--overwrite") != first
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "out/000001.png")  # somebody else's
    code, _, err = script("generate.py", f"--network={snapshots['other']}", f"--outdir={tmp_path / 'out'}", *flags)
    assert code == 2 and "000001.png" in err


def test_every_network_and_sampler_flag_matters(generate):
    flags = ["--seeds=0", "--steps=5"]
    runs = {"plain": []} | {
        flag: [flag]
        for flag in (
            "--steps=6 --sigma_min=0.1 --sigma_max=30 --rho=3 --S_churn=2 --solver=euler --disc=vp --schedule=ve "
            "--scaling=vp --sampler=dpmpp2m --sampler=sde --ema=0.5 --precision=bf16"
        ).split()
    }
    runs |= {"S_min": ["--S_churn=2", "--S_min=1"], "S_max": ["--S_churn=2", "--S_max=1"]}
    runs |= {"S_noise": ["--S_churn=2", "--S_noise=2"], "alpha": ["--solver=heun", "--set=sampler.alpha=0.5"]}
    images = {name: generate("rgb", name, *flags, *extra)["000000.png"] for name, extra in runs.items()}
    # The ablation sampler's own default for --solver is heun, so that --solver=euler alone is a change.
    same = [(a, b) for a in images for b in images if a < b and images[a] == images[b]]
    assert same == []


def test_noise_of_the_host(generate, script, snapshots, tmp_path):
    """On the CPU it is that of the device, and so counts as the same."""
    flags = ["--seeds=0", "--steps=3", "--S_churn=2"]
    assert generate("rgb", "out", *flags) == generate("rgb", "other", *flags, "--noise=cpu")
    code, _, err = script("generate.py", f"--network={snapshots['rgb']}", f"--outdir={tmp_path / 'no'}", "--noise=gpu")
    assert code == 2 and "--noise" in err and not (tmp_path / "no").exists()


def test_guidance(generate, snapshots):
    flags = ["--seeds=0,1", "--steps=4"]
    plain = generate("digits", "plain", *flags)
    images = {
        extra: generate("digits", extra.replace("/", "-"), *flags, *extra.split())
        for extra in (
            "--cfg=2",
            "--cfg=2 --guidance_interval=0.5,5",
            f"--cfg=2 --guide={snapshots['other']}",
            f"--cfg=2 --guide={snapshots['other']} --guidance_interval=0.5,5",
        )
    }
    assert len({made["000000.png"] for made in (plain, *images.values())}) == 5
    assert generate("digits", "one by one", "--seeds=1", "--steps=4", "--cfg=2").items() <= images["--cfg=2"].items()


def test_windows_of_a_model_that_knows_coordinates(generate, snapshots, tmp_path):
    flags = ["--seeds=0", "--steps=3"]
    whole = generate("patch", "whole", *flags)
    assert generate("patch", "same", *flags, "--x_start=0", "--image_size=8", "--resolution=8") == whole
    generate("patch", "part", *flags, "--x_start=2", "--y_start=4", "--image_size=4")
    generate("patch", "large", *flags, "--x_start=-4", "--image_size=16")
    assert pixels(tmp_path / "part/000000.png").shape == (4, 4)
    assert pixels(tmp_path / "large/000000.png").shape == (16, 16)
    assert generate("patch", "right", *flags, "--x_start=4") != generate("patch", "below", *flags, "--y_start=4")
    guided = [*flags, "--image_size=4", "--cfg=2"]
    generate("patch", "guided", *guided, f"--guide={snapshots['patch']}")
    assert generate("patch", "cfg", *guided) != generate("patch", "plain", *flags, "--image_size=4")


def test_flags_of_old_commands_are_noted(script, snapshots, tmp_path):
    old = ["--embed_fq=0", "--mask_pos=False", "--on_latents=0", "--resolution=8"]
    out = [f"--network={snapshots['rgb']}", f"--outdir={tmp_path}", "--seeds=0", "--steps=1", "--device=cpu"]
    code, _, err = script("generate.py", *out, *old)
    assert code == 0 and "--embed_fq is accepted for old commands and has no effect" in err


def test_a_sampler_from_outside(generate, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from elucid.training.samplers.base import Sampler\n"
        "class Mean(Sampler):\n"
        "    def __init__(self, level: int = 128):\n"
        "        self.level = level\n"
        "    def __call__(self, denoise, x, sigmas, noise, callback=None):\n"
        "        return x * 0 + (self.level - 128) / 127.5\n"
    )
    generate("rgb", "out", "--seeds=7", f"--sampler={tmp_path / 'mine.py'}:Mean", "--set=sampler.level=200")
    assert (pixels(tmp_path / "out/000007.png") == 200).all()


def test_subdirs_and_grid(generate, tmp_path):
    images = generate("rgb", "out", "--seeds=998-1001", "--steps=1", "--subdirs", f"--grid={tmp_path / 'grid.png'}")
    assert sorted(images) == ["000000/000998.png", "000000/000999.png", "001000/001000.png", "001000/001001.png"]
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (994, 994, 3)  # every pixel 62 times as large, two white ones between the images
    assert np.array_equal(grid[:496:62, 498::62], pixels(tmp_path / "out/000000/000999.png"))
    assert np.array_equal(grid[498::62, :496:62], pixels(tmp_path / "out/001000/001000.png"))
    assert (grid[:, 496:498] == 255).all()


def test_a_row_for_each_class(generate, tmp_path):
    generate("digits", "out", "--seeds=0-23", "--steps=1", "--labels", f"--grid={tmp_path / 'g.png'}", "--grid_classes")
    labels = dict(json.loads((tmp_path / "out/dataset.json").read_text())["labels"])
    classes = sorted(set(labels.values()))
    columns = min(list(labels.values()).count(one) for one in classes)
    grid, factor = pixels(tmp_path / "g.png"), round(1000 / (columns * 8))
    assert grid.shape[:2] == tuple(number * (8 * factor + 2) - 2 for number in (len(classes), columns))
    first = sorted(name for name, one in labels.items() if one == classes[-1])[0]
    row = (len(classes) - 1) * (8 * factor + 2)
    assert np.array_equal(grid[row::factor, : 8 * factor : factor], pixels(tmp_path / "out" / first))


@pytest.mark.parametrize(
    "model, flags, named",
    [
        ("rgb", ["--class=1"], "--class"),
        ("digits", ["--class=5"], "0 to 4"),
        ("digits", ["--class=-1"], "--class"),
        ("rgb", ["--labels"], "--labels"),
        ("rgb", ["--class_dirs"], "--class_dirs: the model was trained without classes"),
        ("rgb", ["--per_class=2"], "--per_class: the model was trained without classes"),
        ("digits", ["--per_class=2", "--class=1"], "leave --class out, or --per_class"),
        ("digits", ["--per_class=2", "--seeds=0-3"], "from the first on; give only that as --seeds"),
        ("digits", ["--per_class=0"], "--per_class"),
        ("rgb", ["--seeds=3-1"], "--seeds"),
        ("rgb", ["--ema=0.2"], "0.1, 0.5"),
        ("rgb", ["--sampler=euler"], "dpmpp2m"),
        ("rgb", ["--sampler=edm", "--solver=euler"], "solver"),
        ("rgb", ["--sampler=dpmpp2m", "--S_churn=1"], "S_churn"),
        ("rgb", ["--set=sampler.nonsense=1"], "nonsense"),
        ("rgb", ["--sigma_min=90"], "--sigma_min"),
        ("rgb", ["--grid=OUT/grid.png"], "--grid"),
        ("rgb", ["--device=cpux"], "--device"),
        ("rgb", ["--cfg=2"], "--cfg"),
        ("digits", ["--guidance_interval=0,1"], "--cfg"),
        ("digits", ["--guide=DIGITS"], "--cfg"),
        ("digits", ["--cfg=2", "--guidance_interval=3,1"], "--guidance_interval"),
        ("digits", ["--cfg=2", "--guidance_interval=3"], "--guidance_interval"),
        ("rgb", ["--cfg=2", "--guide=DIGITS"], "--guide"),
        ("rgb", ["--image_size=4"], "without coordinates"),
        ("rgb", ["--y_start=1"], "without coordinates"),
        ("patch", ["--image_size=5"], "multiple of 2"),
        ("patch", ["--resolution=64"], "8x8"),
        ("patch", ["--mask_pos=1"], "--mask_pos"),
        ("patch", ["--image_size=4", "--cfg=2", "--guide=DIGITS"], "--guide"),
        ("patch", ["--x_start=2", "--cfg=2", "--guide=DIGITS"], "--guide: it was trained without coordinates"),
        ("nothing", [], "nothing.pkl"),
        ("picture", [], "picture.pkl"),
    ],
)
def test_bad_input_is_one_line(script, snapshots, tmp_path, model, flags, named):
    picture = tmp_path / "picture.pkl"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(picture, format="png")
    network = {**snapshots, "nothing": tmp_path / "nothing.pkl", "picture": picture}[model]
    out = tmp_path / "out"
    flags = [flag.replace("OUT", str(out)).replace("DIGITS", str(snapshots["digits"])) for flag in flags]
    code, stdout, err = script("generate.py", f"--network={network}", f"--outdir={out}", "--seeds=0", *flags)
    last = err.strip().splitlines()[-1]
    assert code == 2 and stdout == "" and last.startswith("error: ") and named in last
    assert "Traceback" not in err and not list(out.rglob("*.png"))


def test_example(script, snapshots, tmp_path):
    path = tmp_path / "grid.png"
    code, out, err = script(
        "example.py", f"--model_path={snapshots['rgb']}", f"--output_path={path}", "--steps=1", "--device=cpu"
    )
    assert (code, out) == (0, f"{path}\n"), err
    grid = pixels(path)
    assert grid.shape == (64, 64, 3) and grid.std() > 0
