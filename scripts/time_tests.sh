#!/usr/bin/env bash
# Measures `make test` in a fresh clone of the last commit: wall time and processor time of the setup and of the tests.
#   scripts/time_tests.sh [--cold]     --cold: with empty caches of pip and uv
set -euo pipefail
clone=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
chmod 755 "$work" # some tests start a process as another user
trap 'rm -rf "$work"' EXIT
if [ "${1:-}" = --cold ]; then
  export PIP_CACHE_DIR="$work/pip" UV_CACHE_DIR="$work/uv"
fi
git clone --quiet "$clone" "$work/facespace"
cd "$work/facespace"
TIMEFORMAT='%R s, %U s + %S s of processor time'
unset CI
echo "setup:"
time make --silent .venv/dev
echo "tests:"
time make --silent test | tail -n 40
