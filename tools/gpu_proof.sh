#!/usr/bin/env bash
# Show on a GPU what runs, how fast and in what memory, and that it learns; see docs/performance.md.
# Usage: bash tools/gpu_proof.sh OUT [WHEELS] [--data CAMVID] [--stages 1 2] [--minutes 9.5] [--again] [--dry]
# Call it until it says that all steps are done: each call takes at most --minutes, and what is done is kept in OUT.
# WHEELS is a folder of wheels that the machine lacks (requirements/gpu_proof.txt says how to fill it; mmsegmentation too,
# if it is to take part); they are installed beside PyTorch, without network. OUT gets a page and a few files, at most eight.
# PYTHON names another interpreter than python3, PROOF_WORK a folder for data and runs (work_dirs/gpu_proof).
set -euo pipefail
case "${1:-}" in
    -h | --help) sed -n 2,7p "$0"; exit ;;
    "") sed -n 2,7p "$0"; exit 2 ;;
esac
mkdir -p "$1"
out=$(cd "$1" && pwd); shift
wheels=
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then wheels=$(cd "$1" && pwd); shift; fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3} work=$(realpath -m "${PROOF_WORK:-$root/work_dirs/gpu_proof}")
options=()
while [ $# -gt 0 ]; do
    options+=("$1"); shift
    if [ "${options[-1]}" = --data ] && [ $# -gt 0 ]; then options+=("$(realpath -m "$1")"); shift; fi
done
cd "$root"
mkdir -p "$work"
if [ -n "$wheels" ] && ! wc -c "$wheels"/*.whl | cmp --silent - "$work/site/.wheels"; then # new, or other ones than last time
    rm -rf "$work/site"
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --no-cache-dir --target "$work/site" "$wheels"/*.whl
    wc -c "$wheels"/*.whl > "$work/site/.wheels"
fi
export PYTHONPATH="$PWD:$PWD/tools:$work/site" PYTHONUNBUFFERED=1
"$python" - requirements/gpu_proof.txt <<'END'
import sys
from importlib.metadata import distributions
with open(sys.argv[1]) as file:
    needed = [line.strip() for line in file if not line.startswith("#")]
there = {one.name.lower().replace("_", "-") for one in distributions()}
if missing := [name for name in needed if name not in there]:
    print(f"{sys.executable} lacks {', '.join(missing)}: put their wheels into WHEELS, as {sys.argv[1]} says", file=sys.stderr)
    sys.exit(2)
END
exec "$python" -m gpu_proof "$out" --work "$work" "${options[@]}"
