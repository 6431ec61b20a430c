#!/usr/bin/env bash
# Searches one's own photos by text; installs what search needs on first use.
#   bash shell/search.sh index|query|ask|describe|serve ...      --help lists all commands; each has --help
# Relative paths are seen from where it is called. Environment: MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
ensure_environment search
# not by -m, which would find modules of the caller's folder before those of the repository
exec "$PYTHON" -c 'import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module("search", run_name="__main__", alter_sys=True)' "$repository" "$@"
