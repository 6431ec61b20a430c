#!/usr/bin/env bash
# Evaluates a checkpoint on the test split of ICFG-PEDES.
#   bash shell/icfg-eval.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
evaluate icfg-pedes configs/PS_icfg_pedes.yaml "$@"
