#!/usr/bin/env bash
# Evaluates a checkpoint on the test split of RSTPReid.
#   bash shell/rstp-eval.sh [CHECKPOINT] [flags of Retrieval.py ...]
# Environment: CHECKPOINT, OUTPUT (folder of the run), CONFIG, GPUS, MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
evaluate rstp-reid configs/PS_rstp_reid.yaml "$@"
