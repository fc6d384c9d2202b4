"""The package works beside a checkout whose folders have the names that EDM's have."""

import subprocess
import sys

from tests import scripts

NAMES = ("dnnlib", "metrics", "preparation", "torch_utils", "training")


def test_folders_of_those_names_are_not_imported(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('another program was imported')\n")
    code = "from elucid.start import main; main()"
    environment = scripts.environment(tmp_path)
    environment["PYTHONPATH"] = f"{tmp_path}:{scripts.ROOT}"

    def elucid(*args):
        command = [sys.executable, "-c", code, *args]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert "written: digits.zip" in elucid("data", "--source=builtin:digits", "--dest=digits.zip", "--max-images=8")
    tiny = ["--cbase=8", "--cres=1", "--augment=0", "--batch=4", "--duration=0.000004", "--set=network.num_blocks=1"]
    assert "done: runs" in elucid("train", "--data=digits.zip", "--outdir=runs", "--nosubdir", "--device=cpu", *tiny)
    assert "2 images generated" in elucid(
        "generate", "--network=runs", "--outdir=out", "--seeds=0,1", "--steps=1", "--device=cpu"
    )
