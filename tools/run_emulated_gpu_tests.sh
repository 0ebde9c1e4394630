#!/usr/bin/env bash
# Run tests/emulated_gpu on a GPU that is not there, once for each kind of card: see its conftest.py.
# Usage: bash tools/run_emulated_gpu_tests.sh [TORCH_VERSION] [--launches | --proof OUT | pytest arguments]
# --launches prints instead how many launches a step and a prediction take at full size.
# --proof OUT [WHEELS] takes the steps of tools/gpu_proof.sh in dry form, on one card, and leaves its files in OUT.
# Needs a C compiler and, for each version of PyTorch, about 6 GB in .venv_emulated_gpu.
# CARDS="9.0" runs for one kind alone; EMULATED_GPU_VENV names an environment that is there already.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n 2,7p "$0"; exit ;; esac
cd "$(dirname "$0")/.."
version=2.11.0
if [[ "${1:-}" =~ ^[0-9] ]]; then version=$1; shift; fi
place="$PWD/.venv_emulated_gpu/$version"
venv=${EMULATED_GPU_VENV:-$place/venv}
if [ ! -x "$venv/bin/python" ]; then
    echo "Installing PyTorch $version for CUDA into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        "torch==$version" --requirement requirements/emulated_gpu.txt
fi

# The card: a runtime and a driver in front of the real ones. CUDA's headers come with PyTorch.
card="$place/card" source=tests/emulated_gpu/card
mkdir -p "$card/include/crt"
: > "$card/include/crt/host_defines.h" # which no wheel brings; cudart.c defines what it would
header=$(find "$venv"/lib/python3*/site-packages/nvidia -name cuda_runtime_api.h | head -n 1)
gcc -O1 -shared -fPIC -D_GNU_SOURCE -I"$card/include" -I"$(dirname "$header")" \
    "$source/cudart.c" "$source/libraries.c" "$source/succeeds.c" -o "$card/cudart.so"
gcc -shared -fPIC "$source/libcuda.c" -o "$card/libcuda.so.1"
nvrtc=$(basename "$(find "$venv"/lib/python3*/site-packages/nvidia -name 'libnvrtc.so.1?' | head -n 1)")
gcc -shared -fPIC "-Wl,-soname,$nvrtc" "$source/nvrtc.c" -o "$card/nvrtc.so" # taken for the real one, which it precedes
preloaded="$card/cudart.so $card/nvrtc.so"

export PYTHONPATH="$PWD:$PWD/tools" OMP_NUM_THREADS=1
run=(pytest -q --show-capture=no --timeout 600 tests/emulated_gpu "$@")
if [ "${1:-}" = --launches ]; then run=(tests.emulated_gpu.full_size); fi
if [ "${1:-}" = --proof ]; then
    shift
    export EMULATED_GPU=${CARDS:-9.0} EMULATED_GPU_RUNS=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHON="$venv/bin/python"
    export LD_PRELOAD="$preloaded" LD_LIBRARY_PATH="$card"
    exec bash tools/gpu_proof.sh "$@" --dry
fi
if [[ "${run[0]}" = pytest && $# = 0 ]]; then
    echo "=== Triton's interpreter with PyTorch $version"
    status=0
    TRITON_INTERPRET=1 "$venv/bin/python" -m pytest -q tests/ops/test_triton_loss.py || status=$?
    [ "$status" = 0 ] || [ "$status" = 5 ] || exit "$status" # 5: left out as a whole, Triton is older
fi
has_kernels='import sys, torch
from nlseg.run.device import knows
sys.exit(0 if knows(torch.cuda.get_device_capability(), torch.cuda.get_arch_list()) else 75)'
for capability in ${CARDS:-7.0 8.0 8.6 9.0}; do
    echo "=== sm_${capability/./} with PyTorch $version"
    on_card=(env "EMULATED_GPU=$capability" "LD_PRELOAD=$preloaded" "LD_LIBRARY_PATH=$card" "$venv/bin/python")
    status=0
    "${on_card[@]}" -c "$has_kernels" || status=$?
    if [ "$status" = 75 ]; then echo "left out: this PyTorch has no kernels for it"; continue; fi
    [ "$status" = 0 ] || exit "$status"
    "${on_card[@]}" -m "${run[@]}"
done
