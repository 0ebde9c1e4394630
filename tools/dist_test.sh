#!/usr/bin/env bash
# Test with several processes on this machine, or on several (run it on each).
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py ...]
# NNODES, MASTER_ADDR and PORT: how many machines, and where they meet (29500); one machine alone finds a free port.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,4p' "$0" >&2; exit 2; fi
config=$1 checkpoint=$2 gpus=$3; shift 3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
meet=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    meet=(--rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" --rdzv-id "${RUN_ID:-nlseg}")
fi
exec python -m torch.distributed.run "${meet[@]}" --nnodes "${NNODES:-1}" --nproc-per-node "$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
