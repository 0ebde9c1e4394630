#!/usr/bin/env bash
# From the quickstart's weights to a folder to publish, a score that can be checked, and an ONNX file that labels images
# without PyTorch: nlseg publish, verify, zoo verify, export and predict.
# Runs in an empty folder, which goes at the end; after tools/quickstart.sh.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
# shellcheck disable=SC1091
source "$root/tools/environment.sh" export hub
config=nonlocal_r18-d8_1xb4-300_synthetic-96x192
weights=$(find "$root/work_dirs/quickstart" -maxdepth 1 -name 'best_mIoU_iter_*.pth' | sort | tail -n 1)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

nlseg publish "$weights" --out street --license apache-2.0
python -c "
from nlseg.publish.pretrained import PretrainedSegmentor
print(', '.join(PretrainedSegmentor.from_pretrained('street').classes))"
ln -s "$root/data" data  # where the config looks for it
nlseg test "$config" street/street-*.pth --work-dir checked
nlseg verify checked/*/receipt.json
cat > zoo.yml <<ZOO
groups: {mine: {title: Mine}}
data: {drawn: {title: drawn street scenes, images: 20, obtain: tools/draw_dataset.py}}
models:
  street:
    group: mine
    data: drawn
    config: $config
    weights: $(ls street/street-*.pth)
    miou: $(sed -n 's/^  "mIoU": \([0-9.]*\).*/\1/p' checked/*/receipt.json)
ZOO
nlseg zoo verify street --zoo zoo.yml
nlseg export "$config" street/street-*.pth --format onnx --argmax --with-preprocessing --out street.onnx
nlseg predict street.onnx "$root/data/quickstart/leftImg8bit/val" --out labelled
ls labelled/masks/*/* > /dev/null
echo "published, verified, exported and labelled"
