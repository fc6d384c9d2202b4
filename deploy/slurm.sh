#!/usr/bin/env bash
# A run on SLURM, on one or several machines, that goes on by itself after preemption and after its time is up.
#
#   sbatch --nodes=2 deploy/slurm.sh --outdir=/shared/runs --data=/shared/pictures-64.zip --preset=ffhq-64
#
# SLURM sends SIGUSR1 to this script three minutes before the time ends, and SIGTERM when it takes the machines away.
# Either is passed on to the processes as SIGTERM: they finish the step, save and end; then the job is put back into the
# queue and goes on with its newest state. Each start has the same command line, as --resume=auto begins a run or goes on.
#SBATCH --job-name=elucid
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=elucid-%j.txt
set -euo pipefail

elucid=${ELUCID_HOME:-$SLURM_SUBMIT_DIR} # the clone; its environment must be active, or PYTHON must name an interpreter
python=${PYTHON:-python}
processes=${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a machine do not meet
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds that torchrun leaves for saving

asked_to_stop=0
# shellcheck disable=SC2317 # called by trap
stop() {
  asked_to_stop=1
  echo "$(date '+%F %T') asked to stop: saving"
  kill -TERM "$step" 2>/dev/null || true # srun passes it on to the processes of all machines
}

srun --kill-on-bad-exit=0 "$python" -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc_per_node="$processes" --max_restarts=3 \
  --rdzv_backend=c10d --rdzv_endpoint="$host:$port" --rdzv_id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  "$elucid/train.py" "$@" --resume=auto &
step=$!
trap stop USR1 TERM
code=0
wait "$step" || code=$? # returns at the signal
while kill -0 "$step" 2>/dev/null; do
  code=0
  wait "$step" || code=$?
done

if [ "$asked_to_stop" = 1 ]; then
  echo "$(date '+%F %T') saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
