#!/usr/bin/env bash
# Trains MARS on ICFG-PEDES, from CHECKPOINT (ALBEF's released weights) when given.
#   bash shell/icfg_train.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, RECIPE (albef, rasa,
# mamba, or a file: settings on top of the data set's), GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
train icfg-pedes configs/PS_icfg_pedes.yaml "$@"
