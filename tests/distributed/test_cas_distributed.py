"""Trainings shared between two processes give the scores of one; after a kill they go on where they were."""

import json
import subprocess
import time

import elucid
from tests import scripts
from tests.e2e.test_cas import write


def test_two_processes_that_go_on_after_a_kill_give_the_result_of_one(tmp_path):
    for index, name in enumerate(("real", "synthetic", "test")):
        write(tmp_path / name, [0, 1, 2] * 10, seed=index)
    how = {"net": "small", "seeds": 2, "epochs": 60, "batch": 15, "device": "cpu"}
    parts = {name: tmp_path / name for name in ("real", "test")}
    alone = elucid.cas(**parts, images=tmp_path / "synthetic", dest=tmp_path / "alone.json", **how)

    flags = [f"--{name}={value}" for name, value in {**parts, **how, "images": tmp_path / "synthetic"}.items()]
    arguments = ["cas", *flags, f"--dest={tmp_path}/shared.json"]
    work = tmp_path / "shared.json.work"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(scripts.command("evaluate.py", *arguments), env=scripts.environment(tmp_path), **quiet)
    deadline = time.monotonic() + 120
    while first.poll() is None and time.monotonic() < deadline and not list(work.glob("*.json")):
        time.sleep(0.02)
    first.kill()
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    assert 1 <= len(done) < 6

    out = scripts.run("evaluate.py", *arguments, processes=2, folder=tmp_path).stdout.splitlines()
    assert [line for line in out if line == f"{alone.value:.6g}"], "only the main process prints"
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("alone.json", "shared.json"))
    assert one == two
