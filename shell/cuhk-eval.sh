#!/usr/bin/env bash
# Evaluates a checkpoint on the test split of CUHK-PEDES.
#   bash shell/cuhk-eval.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
evaluate cuhk-pedes configs/PS_cuhk_pedes.yaml "$@"
