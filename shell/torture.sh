#!/usr/bin/env bash
# Kills, starves and feeds garbage to real runs, and counts what they survive: twenty minutes, or eight.
#   bash shell/torture.sh [--quick] [-k NAME ...]      further arguments go to pytest
# Environment: OUTPUT (default output/torture), MARS_ENV. The table is left in OUTPUT/reliability.md.
set -euo pipefail
source "$(dirname "$0")/common.sh"
export FAULTS=full
case "${1:-}" in
    --quick) export FAULTS=quick; shift ;;
    -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
ensure_environment dev
output="$(absolute "${OUTPUT:-$repository/output/torture}")"
cd "$repository"
exec "$PYTHON" -m pytest -m promise --campaign "$output/reliability.md" "$@"
