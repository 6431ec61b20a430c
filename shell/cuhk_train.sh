#!/usr/bin/env bash
# Trains MARS on CUHK-PEDES, from CHECKPOINT (ALBEF's released weights) when given.
#   bash shell/cuhk_train.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, RECIPE (albef, rasa,
# mamba, or a file: settings on top of the data set's), GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
train cuhk-pedes configs/PS_cuhk_pedes.yaml "$@"
