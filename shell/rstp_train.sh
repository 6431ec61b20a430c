#!/usr/bin/env bash
# Trains MARS on RSTPReid, from CHECKPOINT (ALBEF's released weights) when given.
#   bash shell/rstp_train.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, RECIPE (albef, rasa,
# mamba, or a file: settings on top of the data set's), GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
train rstp-reid configs/PS_rstp_reid.yaml "$@"
