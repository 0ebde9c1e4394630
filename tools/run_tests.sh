#!/usr/bin/env bash
# Install what the tests need and run the whole test suite. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh tests
cores=$(nproc) # before the next line, as nproc counts what OMP_NUM_THREADS allows
export OMP_NUM_THREADS=1 # a tiny network gains nothing from threads; processes do
# One process more than cores, as many tests wait: for a time limit, a signal, another process. The
# order of the files is that of tests/conftest.py.
exec python -m pytest --numprocesses $((cores + 1)) --dist loadfile --no-loadscope-reorder "$@"
