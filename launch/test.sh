#!/usr/bin/env bash
# Sets everything up and runs the quick tests; with --all every check: format, lint, types, all tests.
# Further arguments go to pytest.
set -euo pipefail
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
if [ "${1:-}" = --all ]; then
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/mypy
fi
exec .venv/bin/python -m pytest "$@"
