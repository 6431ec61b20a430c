#!/usr/bin/env bash
# Check a data set and write ROOT/processed_data/{train,val,test}.json (--output FOLDER: there).
#   bash shell/data_process.sh NAME ROOT [options]     NAME: CUHK-PEDES ... or CSV, see --help
# MARS_ENV names the virtual environment to use; without it, .venv beside the repository's files.
set -euo pipefail

caller_directory=$PWD   # a relative ROOT starts here
source "$(dirname "$0")/common.sh"
ensure_environment
cd "$repository"
exec "$PYTHON" -m dataset.prepare --directory "$caller_directory" "$@"
