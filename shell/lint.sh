#!/usr/bin/env bash
# Checks format, style and types of all code, as every change must pass them.
#   bash shell/lint.sh [format] [style] [types]      only these (default: all)
# Environment: MARS_ENV.
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [ $# -eq 0 ]; then set -- format style types; fi
for check in "$@"; do
    case "$check" in
        format | style | types) ;;
        -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) fail "there is no check $check; name format, style or types" ;;
    esac
done
ensure_environment dev
cd "$repository"
failed=0
for check in "$@"; do
    case "$check" in
        format) "$PYTHON" -m ruff format --check . || failed=1 ;;
        style) "$PYTHON" -m ruff check . || failed=1 ;;
        types) "$PYTHON" -m mypy || failed=1 ;;
    esac
done
exit "$failed"
