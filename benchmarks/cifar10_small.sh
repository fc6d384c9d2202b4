#!/usr/bin/env bash
# The whole path on real images with two processes: prepare, train, sample, score.
# Usage: benchmarks/cifar10_small.sh SOURCE [OUT] [KIMG]; SOURCE is any source of CIFAR-10 that dataset_tool.py reads.
# A small network for a small budget: what it shows is that every step works and that scores fall, not a published score.
set -euo pipefail
trap 'exit 130' INT  # train.py saves at Ctrl-C and ends with code 75; this script does not go on
source=${1:?give a source of CIFAR-10}
out=${2:-cifar10-small}
kimg=${3:-20}
launch="torchrun --standalone --nproc_per_node=2"

step() {
  printf '\n$ %s\n' "$*"
  "$@"
}

step python dataset_tool.py --source="$source" --dest="$out/cifar10.zip" --resolution=32x32
step python dataset_tool.py verify --source="$out/cifar10.zip"
step $launch fid.py ref --data="$out/cifar10.zip" --dest="$out/efflite0.npz" --detector=efflite0
step $launch train.py --outdir="$out/run" --nosubdir --data="$out/cifar10.zip" --cond=1 --arch=ddpmpp --cbase=32 --cres=1,2,2 \
  --set=network.num_blocks=1 --set=optimizer.lr_rampup_kimg=2 --set=optimizer.lr_rampdown=0.3 --set=loop.grid_images=16 \
  --batch=32 --lr=2e-3 --ema=0.002 --dropout=0 --augment=0.12 --duration="$(python -c "print($kimg / 1000)")" \
  --tick="$(python -c "print($kimg / 4)")" --snap=1 --dump=4 --seed=0
for snapshot in "$out"/run/network-snapshot-*.pkl; do
  name=$(basename "$snapshot" .pkl)
  step $launch generate.py --network="$snapshot" --outdir="$out/$name" --seeds=0-255 --steps=10 --labels --grid="$out/$name.png"
  step $launch fid.py calc --images="$out/$name" --ref="$out/efflite0.npz" --num-images=256 | tee "$out/$name.txt"
done
for score in "$out"/network-snapshot-*.txt; do
  echo "$(basename "$score" .txt): Fréchet distance, efflite0, 256 images: $(tail -n 1 "$score")"
done
