#!/usr/bin/env bash
# Makes the start of small models on drawn people again: draws 10,000 people, trains embeddings, then matching and
# masked words, in two stages, writes the weights as one file and evaluates it on the demo's, hard and alike people.
#   bash shell/demo_start.sh [KEY.PATH=VALUE ...]      settings on top of configs/demo_start_details.yaml and the stages before it
# Environment: OUTPUT (default output/demo_start), FILE (default OUTPUT/demo_start.safetensors), DEMO_DATA (options of
# dataset.synthetic, to change the people), OTHER_DATA (likewise, those it is evaluated on), MARS_ENV.
# What is finished is not done again; an interrupted training is resumed.
set -euo pipefail
source "$(dirname "$0")/common.sh"
require_settings "$@"
ensure_environment
output="$(absolute "${OUTPUT:-$repository/output/demo_start}")"
file="$(absolute "${FILE:-$output/demo_start.safetensors}")"
cd "$repository"
if [ $# -gt 0 ]; then check_settings configs/demo_start_details.yaml "$@"; fi

echo "1/6 people"
# shellcheck disable=SC2086  (several options)
draw "$output/data" --preset start --seed 101 ${DEMO_DATA:-}
use_data "$output/data"
echo "2/6 embeddings from nothing"
run_once "$output/embeddings" configs/demo_start_pretrain.yaml "" --set "${settings[@]}" "$@"
echo "3/6 matching and masked words"
run_once "$output/matching" configs/demo_start.yaml "$output/embeddings/checkpoint_best.pth" \
    --set "${settings[@]}" "$@"
echo "4/6 small details"
run_once "$output" configs/demo_start_details.yaml "$output/matching/checkpoint_best.pth" \
    --set "${settings[@]}" "${test_settings[@]}" "$@"
echo "5/6 one file"
[ -f "$file" ] || "$PYTHON" -m search export "$file" --checkpoint "$output/checkpoint_best.pth" --bf16
echo "6/6 other people"
for name in demo hard lookalikes; do
    preset="$name"; difficulty=normal
    if [ "$name" = hard ]; then preset=demo; difficulty=hard; fi
    # shellcheck disable=SC2086  (several options)
    draw "$output/$name/data" --preset "$preset" --difficulty "$difficulty" ${OTHER_DATA:-}
    use_data "$output/$name/data"
    evaluate_once "$output/$name" "$output/config.yaml" "$file" --set "${settings[@]}" "${test_settings[@]}"
done
