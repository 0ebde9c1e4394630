#!/usr/bin/env bash
# Test with several processes on this machine, or on several (run it on each).
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py ...]
# NNODES, MASTER_ADDR and PORT: how many machines, and where they meet (29500); one machine alone finds a free port.
# NODE_RANK: the number of this machine; machine 0 keeps the meeting point and writes the files. RDZV_CONF: more of torchrun's.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,5p' "$0" >&2; exit 2; fi
config=$1 checkpoint=$2 gpus=$3; shift 3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
meet=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    meet=(--rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" --rdzv-id "${RUN_ID:-nlseg}")
    # machine 0 keeps the meeting point; without NODE_RANK it is the one whose name or address MASTER_ADDR is
    conf="${NODE_RANK:+is_host=$((NODE_RANK == 0)),}${RDZV_CONF:-}"
    [ -z "$conf" ] || meet+=(--rdzv-conf "${conf%,}")
fi
exec python -m torch.distributed.run "${meet[@]}" --nnodes "${NNODES:-1}" --nproc-per-node "$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
