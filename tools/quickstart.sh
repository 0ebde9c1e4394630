#!/usr/bin/env bash
# From nothing to labelled pictures: installs, draws a small street-scene data set in the Cityscapes layout, trains a
# small non-local network on it from random weights, tests it single scale and multi-scale + flip, explains the test on
# a page, labels pictures, and draws where the network looks.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh

config=nonlocal_r18-d8_1xb4-300_synthetic-96x192
work=work_dirs/quickstart
data=data/quickstart
say() { printf '\n\033[1m== %s\033[0m (%s s since the start)\n' "$1" "$SECONDS"; }

SECONDS=0
say "Drawing $data"
python tools/draw_dataset.py "$data"

say "Training"
rm -rf "$work"
nlseg train "$config" --work-dir "$work"
checkpoint=$(ls "$work"/best_mIoU_iter_*.pth)

say "Testing, single scale"
nlseg test "$config" "$checkpoint" --work-dir "$work/test" --show-dir "$work/predictions" --report

say "Testing, multi-scale + flip"
nlseg test "$config" "$checkpoint" --work-dir "$work/test_tta" --tta

say "Checking the score: recomputed from the receipt, and predicted again"
nlseg verify "$work"/test/*/receipt.json
cat > "$work/zoo.yml" <<ZOO
groups: {mine: {title: Quickstart}}
data: {drawn: {title: drawn street scenes, images: 20, obtain: tools/draw_dataset.py}}
models:
  quickstart:
    group: mine
    data: drawn
    config: $(basename "$config" .py)
    weights: $(basename "$checkpoint")
    miou: $(sed -n 's/^  "mIoU": \([0-9.]*\).*/\1/p' "$work"/test/*/receipt.json)
ZOO
nlseg zoo verify quickstart --zoo "$work/zoo.yml" --out "$work/zoo"

say "What a guess would reach on the same images"
python tools/draw_dataset.py "$data" --guess

say "Labelling pictures"
nlseg predict "$config" "$checkpoint" "$data/leftImg8bit/val" --out "$work/labelled"

say "Where the network looks"
picture=$(find "$data/leftImg8bit/val" -name "*.png" | sort | head -n 1)
nlseg attend "$config" "$checkpoint" "$picture" --at 100,128 --out "$work/attention.png"

say "Done"
echo "labelled pictures:   $work/labelled/overlays"
echo "the test explained:  $(ls "$work"/test/*/report.html)"
echo "attention:           $work/attention.png"
echo "weights:             $checkpoint"
echo "click for yourself:  nlseg demo $config $checkpoint    # after pip install \".[demo]\""
