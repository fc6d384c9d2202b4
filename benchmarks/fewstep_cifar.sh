#!/usr/bin/env bash
# CIFAR-10 in miniature: EDM in 18 steps, ECT from it and MeanFlow from data in one and two, at about the same time of one core.
# Usage: fewstep_cifar.sh OUT [SOURCE]; SOURCE has the folders train and test, and is needed the first time. Started again, it
# goes on where it was. About three hours of one core with bf16; the table is in docs/fewstep.md.
set -euo pipefail
trap 'exit 130' INT
out=${1:?a folder} source=${2:-}
for part in train test; do
  [ -e "$out/$part.zip" ] || python dataset_tool.py --source="$source/$part" --dest="$out/$part.zip" --resolution=32x32
done
train() {
  local name=$1
  shift
  python train.py --data="$out/train.zip" --outdir="$out/$name" --nosubdir --resume=auto --cond=1 --arch=ddpmpp --cbase=24 \
    --cres=1,2,2 --set=network.num_blocks=1 --set='network.attn_resolutions=[8]' --batch=32 --precision=bf16 --dropout=0 \
    --augment=0 --ema=0.01 --tick=4 --snap=10 --dump=5 --seed=1 "$@"
}
from_data="--lr=1e-3 --set=lr_schedule.warmup_kimg=10 --set=lr_schedule.cooldown=0.5"
train edm $from_data --duration=0.22
train ect --loss=ect --transfer="$out/edm" --optimizer=radam --lr=3e-4 --set=lr_schedule.warmup_kimg=0 \
  --set=lr_schedule.cooldown=0.4 --duration=0.11
train mean_flow --precond=flow --loss=mean_flow --set=loss.P_mean=-0.4 --set=loss.P_std=1.0 --set=loss.ratio=0.5 $from_data \
  --duration=0.13
sample() { # FOLDER RUN FLAGS
  local folder="$out/samples-$1" run="$out/$2"
  shift 2
  python generate.py --network="$run" --outdir="$folder" --seeds=0-1999 "$@"
}
sample edm-18 edm
sample edm-1 edm --sampler=consistency --steps=1
for name in ect mean_flow; do
  for steps in 1 2; do sample "$name-$steps" "$name" --steps="$steps"; done
done
score() { printf '%-16s' "$(basename "$1")" && python fid.py calc --images="$1" --ref="$out/train.zip" --detector=efflite0 \
  --num=2000 --interval | tail -n 2 | tr '\n' ' ' && echo; }
score "$out/test.zip"
for folder in "$out"/samples-*/; do score "${folder%/}"; done
python - "$out/fewstep-cifar.png" "$out"/samples-{edm-18,edm-1,ect-1,ect-2,mean_flow-1,mean_flow-2} <<'PY'
import sys
from pathlib import Path

from PIL import Image

# One row for each folder: the images of the first 16 seeds.
target, folders = sys.argv[1], sys.argv[2:]
picture = Image.new("RGB", (16 * 66, len(folders) * 66), "white")
for row, folder in enumerate(folders):
    for column, path in enumerate(sorted(Path(folder).rglob("*.png"))[:16]):
        picture.paste(Image.open(path).resize((64, 64), Image.Resampling.NEAREST), (column * 66, row * 66))
picture.save(target, optimize=True)
PY
