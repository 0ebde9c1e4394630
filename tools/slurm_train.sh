#!/usr/bin/env bash
# Train on a Slurm cluster; the job is started again by itself when its time is over.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [ARGUMENTS OF train.py ...]
# GPUS (4), GPUS_PER_NODE (4), CPUS_PER_TASK (5), SBATCH_ARGS (such as "--time=12:00:00"), SRUN_ARGS (such as
# "--gpus-per-task=1"; a process may see one GPU only), SIGNAL_S (300): how many seconds before the time is over Slurm tells
# the run, which then saves and leaves with 143; the job is then put back in the queue and goes on from its newest
# checkpoint. INTERACTIVE=1 runs it in this terminal through srun instead.
set -euo pipefail
if [ -n "${NLSEG_IN_JOB:-}" ]; then # inside the job
    resume=; [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && resume=--resume
    code=0; trap : USR1 TERM
    # shellcheck disable=SC2086
    srun --kill-on-bad-exit=1 ${SRUN_ARGS:-} python -u "$NLSEG_IN_JOB/train.py" "$@" --launcher slurm $resume & step=$!
    while :; do code=0; wait $step || code=$?; kill -0 $step 2>/dev/null || break; done
    [ "$code" = 143 ] && scontrol requeue "$SLURM_JOB_ID"
    exit "$code"
fi
if [ $# -lt 3 ]; then sed -n '2,7p' "$0" >&2; exit 2; fi
partition=$1 job=$2; shift 2
tools=$(cd "$(dirname "$0")" && pwd)
per_node=${GPUS_PER_NODE:-4}; gpus=${GPUS:-4}; [ "$gpus" -lt "$per_node" ] && per_node=$gpus
options=(--partition="$partition" --job-name="$job" --ntasks="$gpus" --ntasks-per-node="$per_node"
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}")
if [ -n "${INTERACTIVE:-}" ]; then
    # shellcheck disable=SC2086
    exec srun "${options[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        python -u "$tools/train.py" "$@" --launcher slurm
fi
# Slurm's signal goes to the steps of the job, that is to every process of the training, and not to this script.
# shellcheck disable=SC2086
exec sbatch "${options[@]}" --requeue --open-mode=append --signal="USR1@${SIGNAL_S:-300}" \
    --export="ALL,NLSEG_IN_JOB=$tools" ${SBATCH_ARGS:-} "$tools/slurm_train.sh" "$@"
