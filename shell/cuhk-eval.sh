#!/usr/bin/env bash
# Evaluates a checkpoint on the test split of CUHK-PEDES.
#   bash shell/cuhk-eval.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT (default: the best one of OUTPUT), OUTPUT (folder of a run, whose results go to
# OUTPUT/evaluation, or a folder for results), CONFIG (default: config.yaml beside the checkpoint, else the
# configuration of the data set), RECIPE (on top of the latter), GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
evaluate cuhk-pedes configs/PS_cuhk_pedes.yaml "$@"
