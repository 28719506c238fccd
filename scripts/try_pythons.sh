#!/usr/bin/env bash
# Installs a built wheel, outside the clone, on each installed Python from 3.10 to 3.13, and runs doctor, the demo and the
# tests in a copy of the clone without src/ (except the tests that read it).  Usage: scripts/try_pythons.sh WHEEL [PYTHON...]
set -euo pipefail
wheel=$(realpath "${1:?usage: scripts/try_pythons.sh WHEEL [PYTHON...]}")
shift
clone=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
chmod 755 "$work" # some tests start a process as another user
trap 'rm -rf "$work"' EXIT
if [ $# -eq 0 ]; then
  for minor in 10 11 12 13; do
    for candidate in "$(command -v "python3.$minor" || true)" "$HOME"/.pyenv/versions/3."$minor".*/bin/python; do
      if [ -x "$candidate" ] && "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
        set -- "$@" "$candidate"
        break
      fi
    done
  done
fi
status=0
for python in "$@"; do
  version=$("$python" -c 'import platform; print(platform.python_version())')
  cd "$work"
  rm -rf venv run && mkdir run
  "$python" -m venv venv
  if venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$clone/constraints.txt" "$wheel[ci]" 2>install.log &&
    (cd "$clone" && git ls-files -z -- . ':!src' | xargs -0 cp --parents -t "$work/run") && cd run &&
    ../venv/bin/facespace doctor >doctor.log && ../venv/bin/facespace demo >demo.log &&
    FACESPACE_SHARED=/nonexistent CI= ../venv/bin/python -m pytest -q -n 2 tests --ignore tests/test_architecture.py \
      --deselect tests/test_delivery.py::test_the_build_stage_gets_the_sources_of_the_wheel >tests.log 2>&1; then
    echo "Python $version: ok, $(tail -1 demo.log | cut -d. -f1), $(tail -1 tests.log)"
  else
    status=1
    echo "Python $version: FAILED"
    cd "$work"
    tail -n 25 install.log run/*.log 2>/dev/null || true
  fi
done
exit $status
