#!/usr/bin/env bash
# The whole path on handwritten digits, each step an ordinary call that is printed before it runs.
# Usage: demo.sh [FOLDER] [SEEDS]; `make demo` calls it with an environment set up.
set -euo pipefail
trap 'exit 130' INT  # train.py saves at Ctrl-C and ends well; this script does not go on
out=${1:-demo}
seeds=${2:-0-499}

step() {
  printf "\n$ python"; printf " %s" "$@"; printf "\n"
  python "$@"
}

step dataset_tool.py --source=builtin:digits-train --dest="$out/digits.zip"
step dataset_tool.py --source=builtin:digits-test --dest="$out/digits-test.zip"
step train.py --preset=demo --data="$out/digits.zip" --outdir="$out/run" --nosubdir
snapshot=$(ls "$out"/run/network-snapshot-*.pkl | tail -n 1)
step generate.py --network="$snapshot" --outdir="$out/samples" --seeds="$seeds" --steps=12 --cfg=1.5 --labels --grid="$out/samples.png"
step fid.py ref --data="$out/digits.zip" --dest="$out/digits-random.npz" --detector=random
step fid.py calc --images="$out/samples" --ref="$out/digits-random.npz" --num="$(find "$out/samples" -name '*.png' | wc -l)" | tee "$out/frechet.txt"
step fid.py svc --data="$out/digits.zip" --test="$out/digits-test.zip" --images="$out/samples" | tee "$out/agreement.txt"

count=$(find "$out/samples" -name '*.png' | wc -l)
printf '\ndata set    %s\nsnapshot    %s\npicture     %s (and %s images in %s)\n' \
  "$out/digits.zip" "$snapshot" "$out/samples.png" "$count" "$out/samples"
printf 'Fréchet distance, random features, %s images: %s\n' "$count" "$(tail -n 1 "$out/frechet.txt")"
printf 'samples that look to an SVC like the digit asked for: %s %%\n' "$(tail -n 1 "$out/agreement.txt")"
