#!/usr/bin/env bash
# Compares both branches of the field at a small size, as docs/comparison.md shows it: draws people, trains a start of
# each branch from nothing, and from these CLIP, IRRA, RDE, ALBEF, RaSa and MARS, each for the same minutes, on people of
# their own, with captions that are right or partly exchanged. Takes hours; results lie in output/comparison.
#   bash shell/comparison.sh [KEY.PATH=VALUE ...]      settings of all systems, below those of configs/ablations/comparison.yaml
# Environment: PEOPLE (default "normal hard"), PROCESSES (runs side by side, default 2), DEMO_DATA (options of
# dataset.synthetic, to change the people), MARS_ENV.
# What is finished is not done again; an interrupted training is resumed.
set -euo pipefail
source "$(dirname "$0")/common.sh"
require_settings "$@"
people="${PEOPLE:-normal hard}" processes="${PROCESSES:-2}"
for each in $people; do
    case "$each" in normal | hard) ;; *) fail "PEOPLE=$people: $each is neither normal nor hard" ;; esac
done
[[ "$processes" =~ ^[1-9][0-9]*$ ]] \
    || fail "PROCESSES=$processes: give how many runs are trained side by side, 1 or more"
ensure_environment clip
cd "$repository"
output="output/comparison"
if [ $# -gt 0 ]; then check_settings configs/demo_from_nothing.yaml "$@"; fi

echo "1/3 people"
# shellcheck disable=SC2086  (several options)
draw "$output/starts/data" --preset demo ${DEMO_DATA:-}
for each in $people; do
    # shellcheck disable=SC2086  (several options)
    draw "$output/$each/data" --preset demo --difficulty "$each" --train 400 --test 200 --seed 1 ${DEMO_DATA:-}
done
echo "2/3 starts"
use_data "$output/starts/data"
run_once "$output/starts/clip" configs/demo_clip_pretrain.yaml "" --set "${settings[@]}"
run_once "$output/starts/albef_embeddings" configs/demo_from_nothing_pretrain.yaml "" --set "${settings[@]}" \
    schedular.epochs=4
run_once "$output/starts/albef" configs/demo_albef.yaml "$output/starts/albef_embeddings/checkpoint_best.pth" \
    --set "${settings[@]}" "test_file=null" "test_image_root=null"
echo "3/3 systems"
for each in $people; do
    use_data "$output/$each/data"
    echo "$each people"
    "$PYTHON" -m evaluation ablation --config configs/ablations/comparison.yaml --processes "$processes" \
        --output_dir "$output/$each" --set "${settings[@]}" "${test_settings[@]}" "$@"
done
