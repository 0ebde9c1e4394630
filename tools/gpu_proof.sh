#!/usr/bin/env bash
# Show on a GPU what runs, how fast and in what memory, and that it learns; see docs/performance.md.
# Usage: bash tools/gpu_proof.sh OUT [WHEELS] [--data CAMVID] [--stages 1 2] [--minutes 9.5] [--again] [--dry]
# Call it until it says that all steps are done: each call takes at most --minutes, and what is done is kept in OUT.
# WHEELS is a folder of wheels that the machine lacks (mmengine, mmcv-lite and what they need; mmsegmentation if it is
# to take part); they are installed beside PyTorch, without network. OUT gets a page and a few files, at most eight.
# PYTHON names another interpreter than python3, PROOF_WORK a folder for data and runs (work_dirs/gpu_proof).
set -euo pipefail
case "${1:-}" in "" | -h | --help) sed -n 2,8p "$0"; exit 2 ;; esac
mkdir -p "$1"
out=$(cd "$1" && pwd); shift
wheels=
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then wheels=$(cd "$1" && pwd); shift; fi
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} work=${PROOF_WORK:-$PWD/work_dirs/gpu_proof}
mkdir -p "$work"
if [ -n "$wheels" ] && [ ! -e "$work/site/.whole" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --no-cache-dir --upgrade --target "$work/site" "$wheels"/*.whl
    touch "$work/site/.whole"
fi
export PYTHONPATH="$PWD:$PWD/tools:$work/site" PYTHONUNBUFFERED=1
exec "$python" -m gpu_proof "$out" --work "$work" "$@"
