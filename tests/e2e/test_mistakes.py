"""What beginners type: every mistake is one line that names the fix, and exit code 2; nothing is written."""

import numpy as np
import pytest
from PIL import Image

from tests import scripts

TRAIN = "train.py --data=DATA --outdir=OUT --device=cpu"
MISTAKES = [
    # flags of other programs
    (f"{TRAIN} --epochs=10", "--duration"),
    (f"{TRAIN} --batch_size=64", "--batch"),
    (f"{TRAIN} --learning_rate=1e-4", "--lr"),
    (f"{TRAIN} --gpus=2", "torchrun"),
    ("train.py --data_dir=DATA --outdir=OUT", "--data"),
    ("train.py --data=DATA --output_dir=OUT", "--outdir"),
    ("generate.py --network=NET --outdir=OUT --num_samples=4", "--seeds"),
    ("generate.py --checkpoint=NET --outdir=OUT", "--network"),
    ("generate.py --network=NET --outdir=OUT --guidance_scale=2", "--cfg"),
    # names that are nearly right
    (f"{TRAIN} --preset=cifar10", "cifar10-cond-edm"),
    (f"{TRAIN} --arch=ddpm++", "ddpmpp"),
    (f"{TRAIN} --precond=emd", "edm"),
    (f"{TRAIN} --loss=pach(edm)", "patch"),
    (f"{TRAIN} --optimizer=adamW", "adamw"),
    (f"{TRAIN} --lr_schedule=cos", "cosine"),
    (f"{TRAIN} --set=network.num_block=2", "num_blocks"),
    (f"{TRAIN} --set=netwrok.num_blocks=2", "network"),
    ("generate.py --network=NET --outdir=OUT --sampler=heun", "edm"),
    ("fid.py calc --images=DATA --ref=ref.npz --detector=incption", "inception"),
    ("fid.py score --images=DATA", "calc"),
    # transformers that do not fit the images or themselves
    (f"{TRAIN} --arch=dit-xxl", "dit-xl"),
    (f"{TRAIN} --arch=dit --set=network.patch=3", "use 2 or 4"),
    (f"{TRAIN} --arch=jit", "network.patch=16 does not divide images of 8x8; use 8"),
    (f"{TRAIN} --arch=dit --set=network.num_heads=5", "use 4 or 6"),
    (f"{TRAIN} --arch=dit --cbase=100", "--cbase"),
    (f"{TRAIN} --arch=dit --set=network.rotary=true --set=network.num_heads=64", "use network.num_heads=48 or 96"),
    (f"{TRAIN} --arch=dit --loss=patch(edm)", "--arch"),
    (f"{TRAIN} --arch=dit --set=network.norm=rsm", "use rms"),
    # values in another unit, or of another kind
    (f"{TRAIN} --duration=200000", "--duration=0.2"),
    (f"{TRAIN} --batch=64 --batch-gpu=48", "--batch-gpu"),
    (f"{TRAIN} --lr=100", "--lr"),
    (f"{TRAIN} --cres=1x2x2", "--cres"),
    (f"{TRAIN} --ema=0.9999x", "--ema"),
    (f"{TRAIN} --cond=maybe", "--cond"),
    ("generate.py --network=NET --outdir=OUT --seeds=10-1", "--seeds"),
    ("dataset_tool.py --source=PICTURES --dest=OUT.zip --resolution=32", "--resolution"),
    ("dataset_tool.py --source=PICTURES --dest=OUT.zip --resolution=33x33", "32x32"),
    # what is missing, or is something else
    ("train.py --data=DATA", "--outdir"),
    ("train.py --outdir=OUT", "--data"),
    ("train.py --data=nowhere.zip --outdir=OUT", "nowhere.zip"),
    ("train.py --data=DATA --outdir=OUT --resume=DATA", "training state"),
    (f"{TRAIN} --resume=network-snapshot-000001.pkl", "--transfer=network-snapshot-000001.pkl"),
    (f"{TRAIN} --cond=1 --data=FLAT", "--cond"),
    ("generate.py --outdir=OUT", "--network"),
    ("generate.py --network=DATA --outdir=OUT", "snapshot"),
    ("generate.py --network=EMPTY --outdir=OUT", "network-snapshot"),
    ("dataset_tool.py --source=PICTURES --dest=DATA", "--overwrite"),
    ("dataset_tool.py --source=PICTURES", "--dest"),
    ("dataset_tool.py --source=EMPTY --dest=OUT.zip", "EMPTY"),
    ("fid.py calc --images=DATA --ref=DATA", "reference"),
]


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    for kind, folder in (("a", "pictures/a"), ("b", "pictures/b"), ("flat", "flat")):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / folder / f"{kind}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "network-snapshot-000001.pkl").write_bytes(b"\x80\x04N.")
    assert scripts.exit_code(monkeypatch, "dataset_tool.py", "--source=pictures", "--dest=data.zip") == 0
    return {
        "DATA": "data.zip",
        "PICTURES": "pictures",
        "FLAT": "flat",
        "EMPTY": "empty",
        "NET": "net.pkl",
        "OUT": "out",
    }


@pytest.mark.parametrize("command, fix", MISTAKES, ids=[command for command, _ in MISTAKES])
def test_one_line_that_names_the_fix(command, fix, names, tmp_path, monkeypatch, capsys):
    for name, value in names.items():
        command, fix = command.replace(name, value), fix.replace(name, value)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = scripts.call(monkeypatch, capsys, *command.split())
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and fix in last, err
    assert "Traceback" not in err
    assert set(before) >= {path.name for path in tmp_path.iterdir()} - {"cache"}
