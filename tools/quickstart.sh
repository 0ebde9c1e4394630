#!/usr/bin/env bash
# From nothing to painted predictions: installs, draws a small street-scene data set in the Cityscapes layout, trains a
# small non-local network on it from random weights, and tests it single scale and multi-scale + flip.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

config=configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py
work=work_dirs/quickstart
data=data/quickstart
say() { printf '\n\033[1m== %s\033[0m (%s s since the start)\n' "$1" "$SECONDS"; }

SECONDS=0
say "Drawing $data"
python tools/draw_dataset.py "$data"

say "Training"
rm -rf "$work"
python tools/train.py "$config" --work-dir "$work"
checkpoint=$(ls "$work"/best_mIoU_iter_*.pth)

say "Testing, single scale"
python tools/test.py "$config" "$checkpoint" --work-dir "$work/test" --show-dir "$work/predictions"

say "Testing, multi-scale + flip"
python tools/test.py "$config" "$checkpoint" --work-dir "$work/test_tta" --tta

say "What a guess would reach on the same images"
python tools/draw_dataset.py "$data" --guess

say "Done"
echo "painted predictions: $work/predictions"
echo "weights:             $checkpoint"
