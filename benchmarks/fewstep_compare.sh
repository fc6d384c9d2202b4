#!/usr/bin/env bash
# Eight methods of one step on digits of 8x8, each trained for as long as the first: a table with intervals, and one by
# benchmarks/digits.py, which tells what a distance in features does not. Usage: fewstep_compare.sh OUT [length
# of the first recipe in millions of images, 0.13] [more flags of evaluate.py compare]
set -euo pipefail
out=${1:?a folder} duration=${2:-0.13}
shift $(( $# < 2 ? $# : 2 ))
for part in train test; do
  [ -e "$out/$part.zip" ] || python dataset_tool.py --source=builtin:digits-$part --dest="$out/$part.zip" --resolution=8x8
done
small="--preset=demo --augment=0 --batch=64 --ema=0.005 --set=network.attn_resolutions=[4]"
teacher="$out/teacher" first="$out/first-stage" tuned="--optimizer=radam --lr=5e-4"
python train.py --preset=demo --duration=0.064 --tick=16 --snap=100 --dump=100 --data="$out/train.zip" --resume=auto \
  --set 'network.attn_resolutions=[4]' --outdir="$teacher" --nosubdir
python train.py $small $tuned --loss=ect --transfer="$teacher" --data="$out/train.zip" --seed=1 --duration=0.065 \
  --outdir="$first" --nosubdir --resume=auto  # of tcm, besides its own training
names=(ect tcm scm ict mean_flow imm cd dmd2)
recipes=(
  "ect: $small $tuned --loss=ect --transfer=$teacher"
  "tcm: $small $tuned --lr=2e-4 --loss=tcm --teacher=$first"
  "scm: $small $tuned --loss=uncertainty(scm) --set=loss.base.warmup=500 --transfer=$teacher"
  "ict: $small $tuned --loss=ict --set=loss.end=80 --transfer=$teacher"
  "mean_flow: $small --lr=2e-3 --precond=flow --loss=mean_flow --set=loss.P_mean=-0.4 --set=loss.P_std=1.0 --set=loss.ratio=0.5"
  "imm: $small --lr=2e-3 --precond=imm --loss=imm --set=loss.k=5"
  "cd: $small $tuned --loss=cd --teacher=$teacher"
  "dmd2: $small --lr=2e-4 --loss=dmd2 --teacher=$teacher"
)
python evaluate.py compare --data="$out/train.zip" --match=time --duration="$duration" --steps=1 --detector=efflite0 \
  --num=1000 --sampling_seeds=3 --fixed --seed=1 --seeds=1 --cv=10% --outdir="$out/eight" "$@" "${recipes[@]}"
python generate.py --network="$teacher" --outdir="$out/edm-18" --seeds=0-999 --labels
python generate.py --network="$teacher" --outdir="$out/edm-1" --seeds=0-999 --labels --sampler=consistency --steps=1
for name in "${names[@]}"; do
  python generate.py --network="$(ls -d "$out/eight/$name"/seed-*/run | head -1)" --outdir="$out/one-$name" --seeds=0-999 \
    --labels --steps=1
done
python -m benchmarks.digits --train="$out/train.zip" --test="$out/test.zip" "$out/edm-18" "$out/edm-1" \
  "${names[@]/#/$out/one-}"
