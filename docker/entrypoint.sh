#!/usr/bin/env bash
# Run one of the scripts by name, under torchrun when GPUS says how many processes; anything else as it is.
set -euo pipefail
case "${1:-}" in
  train.py | generate.py | fid.py | dataset_tool.py | example.py)
    script="/opt/elucid/$1"
    shift
    if [ "${GPUS:-1}" -gt 1 ] && [ "$(basename "$script")" != dataset_tool.py ]; then
      exec torchrun --standalone --nproc_per_node="$GPUS" "$script" "$@"
    fi
    exec python "$script" "$@"
    ;;
  *) exec "$@" ;;
esac
