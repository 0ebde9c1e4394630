#!/usr/bin/env bash
# Train with several processes on this machine, or on several (run it on each).
#   tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py ...]
# NNODES, MASTER_ADDR and PORT: how many machines, and where they meet (29500); one machine alone finds a free port.
# NODE_RANK: the number of this machine; machine 0 keeps the meeting point and writes the files. NNODES=1:3: go on with fewer
# machines than three, and with more again when they come. RDZV_CONF: more of torchrun's --rdzv-conf, such as
# keep_alive_max_attempt=200 where the machines' clocks are minutes apart.
# MAX_RESTARTS (3): how often a failed run is started again, from its newest checkpoint; GRACE_S (300): how long a run may
# take to save after SIGTERM before it is killed. Without GPUs the same command trains on the CPU.
# Exit code 143: stopped on request, after saving.
set -uo pipefail
if [ $# -lt 2 ]; then sed -n '2,11p' "$0" >&2; exit 2; fi
config=$1 gpus=$2; shift 2
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${GRACE_S:-300}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
asked=0
# A new store for each restart: the shared one hands on addresses of processes that have died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
meet=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    meet=(--rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}" --rdzv-id "${RUN_ID:-nlseg}")
    # machine 0 keeps the meeting point; without NODE_RANK it is the one whose name or address MASTER_ADDR is
    conf="${NODE_RANK:+is_host=$((NODE_RANK == 0)),}${RDZV_CONF:-}"
    [ -z "$conf" ] || meet+=(--rdzv-conf "${conf%,}")
fi
export NLSEG_LAUNCHER=$$
python -m torch.distributed.run "${meet[@]}" \
    --nnodes "${NNODES:-1}" --nproc-per-node "$gpus" --max-restarts "${MAX_RESTARTS:-3}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@" &
launcher=$!
# torchrun hands SIGTERM on to its processes, but SIGUSR1 would kill it and leave them behind.
trap 'asked=1; kill -TERM $launcher 2>/dev/null' TERM INT USR1
while :; do
    wait $launcher; code=$?
    kill -0 $launcher 2>/dev/null || break
done
[ $asked = 1 ] && exit 143
exit $code
