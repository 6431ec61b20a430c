#!/usr/bin/env bash
# Makes the synthetic benchmark, trains a small model on it, evaluates it, and leaves a report.
#   bash shell/demo.sh [settings KEY.PATH=VALUE ...]
# Environment: OUTPUT (default output/demo), DEMO_DATA (options of dataset.synthetic, to shrink or change the
# benchmark), MARS_ENV. A finished demo is not run again; an interrupted one goes on.
set -euo pipefail
source "$(dirname "$0")/common.sh"
ensure_environment
output="$(absolute "${OUTPUT:-$repository/output/demo}")"
cd "$repository"
data="$output/data"
settings=(
    "train_file=[$data/processed_data/train.json]" "train_image_root=$data/imgs"
    "val_file=$data/processed_data/val.json" "val_image_root=$data/imgs"
    "test_file=$data/processed_data/test.json" "test_image_root=$data/imgs"
)
# bfloat16 is faster where the processor has it, and much slower where it has not
if ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then settings+=("precision=fp32"); fi

# shellcheck disable=SC2086  (several options)
"$PYTHON" -m dataset.synthetic "$data" --preset demo ${DEMO_DATA:-}
[ -f "$data/processed_data/test.json" ] || bash shell/data_process.sh CUHK-PEDES "$data"
if [ ! -f "$output/metrics.json" ]; then
    resume=()
    if [ -f "$output/checkpoint_last.pth" ]; then resume=(--resume); fi
    "$PYTHON" Retrieval.py --config configs/demo.yaml --output_dir "$output" "${resume[@]}" --set "${settings[@]}" "$@"
fi
"$PYTHON" -m evaluation.report "$output"
