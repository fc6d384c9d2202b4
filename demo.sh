#!/usr/bin/env bash
# The whole path on handwritten digits to a report on it, each step an ordinary call that is printed before it runs.
# Usage: demo.sh [FOLDER] [SEEDS]; `make demo` calls it with an environment set up. Interrupted, it goes on when called again.
set -euo pipefail
trap 'exit 130' INT  # train.py saves at Ctrl-C and ends with code 75; this script does not go on
out=${1:-demo}
seeds=${2:-0-499}

step() {
  printf "\n$ python"; printf " %s" "$@"; printf "\n"
  python "$@"
}

[ -e "$out/digits.zip" ] || step dataset_tool.py --source=builtin:digits-train --dest="$out/digits.zip"
[ -e "$out/digits-test.zip" ] || step dataset_tool.py --source=builtin:digits-test --dest="$out/digits-test.zip"
step train.py --preset=demo --data="$out/digits.zip" --outdir="$out/run" --nosubdir --resume=auto
step generate.py --network="$out/run" --outdir="$out/samples" --seeds="$seeds" --steps=12 --cfg=1.5 --labels --grid="$out/samples.png" --grid_classes
[ -e "$out/digits-random.npz" ] || step fid.py ref --data="$out/digits.zip" --dest="$out/digits-random.npz" --detector=random
step fid.py calc --images="$out/samples" --ref="$out/digits-random.npz" --num="$(find "$out/samples" -name '*.png' | wc -l)" | tee "$out/frechet.txt"
step evaluate.py svc --data="$out/digits.zip" --test="$out/digits-test.zip" --images="$out/samples" --dest="$out/run/evaluations/svc.json" | tee "$out/agreement.txt"
step evaluate.py report "$out/run" --samples="$out/samples" -o "$out/report.html"

count=$(find "$out/samples" -name '*.png' | wc -l)
printf '\ndata set    %s\nmodel       %s\npicture     %s (and %s images in %s)\n' \
  "$out/digits.zip" "$out/run" "$out/samples.png" "$count" "$out/samples"
printf 'Fréchet distance, random features, %s images: %s\n' "$count" "$(tail -n 1 "$out/frechet.txt")"
printf 'samples that look to an SVC like the digit asked for: %s %%\n' "$(tail -n 1 "$out/agreement.txt")"
printf 'all of it on one page, for a browser: %s\n' "$out/report.html"
printf '\nGo on with pictures of your own, in one folder per class (%s deletes nothing; OUT=other starts anew):\n' "make demo"
[ -n "${VIRTUAL_ENV:-}" ] || ! [ -e .venv/bin/activate ] || printf '  source .venv/bin/activate\n'
printf '  python dataset_tool.py --source=pictures/ --dest=pictures-32.zip --resolution=32x32 --transform=center-crop\n'
printf '  python train.py --outdir=runs --data=pictures-32.zip --preset=demo --duration=0.2\n'
