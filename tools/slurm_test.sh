#!/usr/bin/env bash
# Test on a Slurm cluster.
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF test.py ...]
# GPUS (4), GPUS_PER_NODE (4), CPUS_PER_TASK (5), SRUN_ARGS.
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,4p' "$0" >&2; exit 2; fi
partition=$1 job=$2; shift 2
per_node=${GPUS_PER_NODE:-4}; gpus=${GPUS:-4}; [ "$gpus" -lt "$per_node" ] && per_node=$gpus
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/test.py" "$@" --launcher slurm
