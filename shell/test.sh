#!/usr/bin/env bash
# Installs what is missing and runs the test suite. Arguments go to pytest.
#   bash shell/test.sh [-k NAME ...]
set -euo pipefail
source "$(dirname "$0")/common.sh"
ensure_environment
cd "$repository"
exec "$PYTHON" -m pytest "$@"
