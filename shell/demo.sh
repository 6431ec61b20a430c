#!/usr/bin/env bash
# Makes the synthetic benchmark, trains a small MARS on it, evaluates it, and leaves a report.
#   bash shell/demo.sh [KEY.PATH=VALUE ...]      settings on top of the configuration
# Environment: CONFIG (default configs/demo.yaml; its first stage is the file beside it, NAME_pretrain.yaml),
# OUTPUT (default output/demo), DEMO_DATA (options of dataset.synthetic, to change the benchmark), MARS_ENV.
# What is finished is not done again; an interrupted training is resumed.
set -euo pipefail
source "$(dirname "$0")/common.sh"
require_settings "$@"
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
use_data "$data"

echo "1/4 benchmark"
# shellcheck disable=SC2086  (several options)
draw "$data" --preset demo ${DEMO_DATA:-}
echo "2/4 embeddings from nothing"
run_once "$output/pretraining" "$first" "" --set "${settings[@]}"
echo "3/4 MARS"
run_once "$output" "$config" "$output/pretraining/checkpoint_best.pth" \
    --set "${settings[@]}" "${test_settings[@]}" "$@"
echo "4/4 report"
"$PYTHON" -m evaluation report "$output"
