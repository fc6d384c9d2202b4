"""--compile and --deterministic as users give them."""

import json

import numpy as np
from PIL import Image

from tests import scripts

SHORT = [*scripts.TINY, "--duration=0.000032", "--batch=8", "--tick=0.016", "--snap=0", "--dump=0", "--augment=0"]


def test_without_a_compiler_training_goes_on_with_one_warning(tmp_path, monkeypatch):
    """Nothing else changes: the weights are those of a run without --compile, and of one with --deterministic."""
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    losses = []
    for flags in (["--compile=1"], ["--deterministic=1"]):
        folder = tmp_path / flags[0].strip("-")
        given = [*SHORT, *flags, f"--data={tmp_path / 'pictures'}", f"--outdir={folder}", "--nosubdir"]
        done = scripts.run("train.py", *given, folder=tmp_path)
        warned = [line for line in done.stdout.splitlines() if "torch.compile fails" in line]
        assert len(warned) == (flags == ["--compile=1"]) and all("--compile=0" in line for line in warned), done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        options = json.loads((folder / "training_options.json").read_text())["loop"]
        assert (options["compile"], options["deterministic"]) == ("--compile=1" in flags, "--deterministic=1" in flags)
        ticks = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
        losses.append([tick["Loss/loss"]["mean"] for tick in ticks])
    assert losses[0] == losses[1] and len(losses[0]) == 2
