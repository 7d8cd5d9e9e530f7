#!/usr/bin/env bash
# Sets everything up and runs beam-embed with the arguments that follow; without arguments, the demo.
# Relative paths are taken from where it is called.
set -euo pipefail
called_from=$PWD
EXTRAS=""
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
project=$PWD
cd "$called_from"
[ $# -gt 0 ] || set -- demo
exec "$project/.venv/bin/beam-embed" "$@"
