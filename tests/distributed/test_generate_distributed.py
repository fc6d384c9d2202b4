"""Two processes make the images that one makes, byte for byte, each seed once."""

import json

from tests import scripts
from tests.snapshots import save_random_snapshot, save_random_upsampler


def test_two_processes_make_the_same_files(tmp_path):
    network = save_random_snapshot(tmp_path / "model.pkl", channels=3, classes=4)
    flags = [f"--network={network}", "--seeds=0-10", "--steps=3", "--S_churn=1", "--labels", "--device=cpu"]
    made = {}
    for processes, batch in ((1, 64), (2, 3)):
        out = tmp_path / f"by {processes}"
        done = scripts.run("generate.py", *flags, f"--outdir={out}", f"--batch={batch}", processes=processes)
        said = f"{out}: 11 images generated, 0 already present\n"
        assert (
            done.stdout.endswith(said) and done.stdout.count("images generated") == 1
        )  # torch 2.9 adds lines of its own
        made[processes] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert made[1] == made[2]
    assert len(json.loads(made[2]["dataset.json"])["labels"]) == 11

    (tmp_path / "by 2/000007.png").unlink()
    done = scripts.run("generate.py", *flags, f"--outdir={tmp_path / 'by 2'}", processes=2)
    assert done.stdout.endswith(": 1 images generated, 10 already present\n")
    assert {path.name: path.read_bytes() for path in (tmp_path / "by 2").iterdir()} == made[1]


def test_two_processes_fill_the_class_folders(tmp_path):
    """And enlarge the images on the way."""
    base = save_random_snapshot(tmp_path / "base.pkl", channels=3, classes=4)
    large = save_random_upsampler(tmp_path / "large.pkl", channels=3, classes=4)
    flags = [f"--network={base}", f"--upsample={large}", "--steps=2", "--upsample_steps=2", "--device=cpu"]
    made = {}
    for processes in (1, 2):
        out = tmp_path / f"by {processes}"
        scripts.run("generate.py", *flags, "--per_class=2", "--class_dirs", f"--outdir={out}", processes=processes)
        made[processes] = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}
    assert made[1] == made[2] and len(made[2]) == 9 and "kind 3/000007.png" in made[2]
