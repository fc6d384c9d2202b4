#!/usr/bin/env bash
# Run one of the scripts by name, under torchrun when GPUS says how many processes; anything else as it is.
set -euo pipefail
home=${ELUCID_HOME:-/opt/elucid}

# A user other than the image's (docker run -u) cannot write to its cache, and gets one of their own.
if ! [ -w "${ELUCID_CACHE:-/cache}" ]; then
  ELUCID_CACHE=$(mktemp -d)
  export ELUCID_CACHE TORCHINDUCTOR_CACHE_DIR="$ELUCID_CACHE/inductor"
  echo "note: the cache is of another user; this container uses $ELUCID_CACHE, until it ends" >&2
fi

case "${1:-}" in
  train.py | generate.py | fid.py | evaluate.py | export.py | dataset_tool.py | example.py)
    script="$home/$1"
    shift
    case "$(basename "$script")" in
      train.py | generate.py | fid.py | evaluate.py)
        if [ "${GPUS:-1}" -gt 1 ]; then
          exec torchrun --standalone --nproc_per_node="$GPUS" "$script" "$@"
        fi
        ;;
    esac
    exec python "$script" "$@"
    ;;
  *) exec "$@" ;;
esac
