#!/usr/bin/env bash
# Installs what is missing and runs the test suite, on up to four cores. Arguments go to pytest, which then runs on one.
#   bash shell/test.sh [-k NAME ...]
set -euo pipefail
source "$(dirname "$0")/common.sh"
ensure_environment dev
cd "$repository"
if [ $# -eq 0 ]; then set -- -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder; fi
exec "$PYTHON" -m pytest "$@"
