#!/usr/bin/env bash
# Draws people who look alike, evaluates a kept start on them, trains MARS from it, evaluates that, and leaves a report.
#   bash shell/demo.sh [--from-nothing] [KEY.PATH=VALUE ...]      settings on top of the configuration
#   --from-nothing   train on other people from random weights, in two stages, instead
# Environment: CONFIG (default configs/demo.yaml; with --from-nothing configs/demo_from_nothing.yaml, whose first stage is
# the file beside it, NAME_pretrain.yaml), START (the start, default demo_start), OUTPUT (default output/demo or
# output/demo_from_nothing), DEMO_DATA (options of dataset.synthetic, to change the people), MARS_ENV.
# What is finished is not done again; an interrupted training is resumed.
set -euo pipefail
source "$(dirname "$0")/common.sh"
name=demo preset=lookalikes
for argument; do
    shift
    if [ "$argument" = --from-nothing ]; then name=demo_from_nothing preset=demo; else set -- "$@" "$argument"; fi
done
require_settings "$@"
output="$(absolute "${OUTPUT:-$repository/output/$name}")"
config="$(absolute "${CONFIG:-$repository/configs/$name.yaml}")"
first="${config%.yaml}_pretrain.yaml"
start="$(checkpoint_path "${START:-demo_start}")"
[ -f "$config" ] || fail "CONFIG=${CONFIG:-$config}: there is no file $config"
if [ $name = demo ]; then [ -e "$start" ] || fail "START=${START:-demo_start}: there is no checkpoint $start"
else [ -f "$first" ] || fail "CONFIG=$config: its first stage, $first, does not exist"; fi
ensure_environment
cd "$repository"
data="$output/data"
if [ $# -gt 0 ] || [ -n "${CONFIG:-}" ]; then check_settings "$config" "$@"; fi
use_data "$data"

echo "1/4 people"
# shellcheck disable=SC2086  (several options)
draw "$data" --preset $preset ${DEMO_DATA:-}
if [ $name = demo ]; then
    echo "2/4 the start as it is"
    evaluate_once "$output/start" "$config" "$start" --set "${settings[@]}" "${test_settings[@]}" "$@"
else
    echo "2/4 embeddings from nothing"
    run_once "$output/pretraining" "$first" "" --set "${settings[@]}"
    start="$output/pretraining/checkpoint_best.pth"
fi
echo "3/4 MARS"
run_once "$output" "$config" "$start" --set "${settings[@]}" "${test_settings[@]}" "$@"
echo "4/4 report"
study_once gradcam "$output" &
study_once reconstruction "$output"
wait $!
if [ $name = demo ]; then "$PYTHON" -m evaluation report "$output" --start "$output/start"
else "$PYTHON" -m evaluation report "$output"; fi
