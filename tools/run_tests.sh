#!/usr/bin/env bash
# Install what the tests need and run the whole test suite, one process a core. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh tests
cores=$(nproc) # before the next line, as nproc counts what OMP_NUM_THREADS allows
export OMP_NUM_THREADS=1 # a tiny network gains nothing from threads; processes do
exec python -m pytest --numprocesses "$cores" --dist loadfile "$@"
