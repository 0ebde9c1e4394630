#!/usr/bin/env bash
# From the quickstart's weights to a folder to publish and to an ONNX file that labels images without PyTorch.
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
nlseg export "$config" street/street-*.pth --format onnx --argmax --with-preprocessing --out street.onnx
nlseg predict street.onnx "$root/data/quickstart/leftImg8bit/val" --out labelled
ls labelled/masks/*/* > /dev/null
echo "published, exported and labelled"
