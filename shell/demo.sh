#!/usr/bin/env bash
# Makes the synthetic benchmark, trains a small MARS on it, evaluates it, and leaves a report.
#   bash shell/demo.sh [KEY.PATH=VALUE ...]      settings on top of the configuration
# Environment: CONFIG (default configs/demo.yaml; its first stage is the file beside it, NAME_pretrain.yaml),
# OUTPUT (default output/demo), DEMO_DATA (options of dataset.synthetic, to change the benchmark), MARS_ENV.
# What is finished is not done again; an interrupted training is resumed.
set -euo pipefail
source "$(dirname "$0")/common.sh"
for argument in "$@"; do
    case "$argument" in
        -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *=*) ;;
        *) fail "$argument is not a setting; write KEY.PATH=VALUE, such as optimizer.lr=1e-4" ;;
    esac
done
ensure_environment
output="$(absolute "${OUTPUT:-$repository/output/demo}")"
config="$(absolute "${CONFIG:-$repository/configs/demo.yaml}")"
first="${config%.yaml}_pretrain.yaml"
[ -f "$first" ] || fail "CONFIG=$config: its first stage, $first, does not exist"
cd "$repository"
data="$output/data"
if [ $# -gt 0 ]; then  # wrong settings are told now, not after minutes
    "$PYTHON" -c 'import sys
from configs.schema import load_config
from utils.errors import run_command_line
run_command_line(lambda: load_config(sys.argv[1], sys.argv[2:]) and 0)' "$config" "$@"
fi
settings=(
    "train_file=[$data/processed_data/train.json]" "train_image_root=$data/imgs"
    "val_file=$data/processed_data/val.json" "val_image_root=$data/imgs"
    "image_cache=$data/image_cache"  # decoded once for the epochs of both stages
)
test_split=("test_file=$data/processed_data/test.json" "test_image_root=$data/imgs")
# bfloat16 is faster where the processor has it, and much slower where it has not
if ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null; then settings+=("precision=fp32"); fi

# run FOLDER CONFIG [flags...]: starts or resumes a training, unless it is finished
run() {
    local folder="$1" config="$2"; shift 2
    if [ -f "$folder/metrics.json" ]; then
        echo "finished before, with the settings of $folder/config.yaml; to train anew, name another OUTPUT"
        return
    fi
    if [ -f "$folder/checkpoint_last.pth" ]; then set -- --resume "$@"; fi
    "$PYTHON" Retrieval.py --config "$config" --output_dir "$folder" "$@"
}

echo "1/4 benchmark"
# shellcheck disable=SC2086  (several options)
"$PYTHON" -m dataset.synthetic "$data" --preset demo ${DEMO_DATA:-}
[ -f "$data/processed_data/test.json" ] || "$PYTHON" -m dataset.prepare CUHK-PEDES "$data"
echo "2/4 embeddings from nothing"
run "$output/pretraining" "$first" --set "${settings[@]}"
echo "3/4 MARS"
start=(--checkpoint "$output/pretraining/checkpoint_best.pth")
if [ -f "$output/checkpoint_last.pth" ]; then start=(); fi
run "$output" "$config" "${start[@]}" --set "${settings[@]}" "${test_split[@]}" "$@"
echo "4/4 report"
"$PYTHON" -m evaluation report "$output"
