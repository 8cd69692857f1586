#!/usr/bin/env bash
# Make .venv: Python packages and ROS 2 from wheels, at the versions that requirements*.txt pin. Running it again only
# brings .venv up to date. PYTHON chooses the interpreter (3.10 to 3.13).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"

fail() {
  echo "make setup: $*" >&2
  exit 1
}

if [ "$(uname -s)-$(uname -m)" != "Linux-x86_64" ]; then
  fail "the ROS 2 wheels exist for Linux on x86-64 only, and this is $(uname -s) on $(uname -m). Install ROS 2 from" \
    "https://docs.ros.org and use colcon as README.md says, or run 'pip install .' for the tools without ROS."
fi
if [[ "${AMENT_PREFIX_PATH:-}" == *"/opt/ros/"* ]]; then
  fail "a ROS 2 installation is sourced (AMENT_PREFIX_PATH=$AMENT_PREFIX_PATH), which would mix with the wheels. Use" \
    "colcon with it as README.md says, or run make in a shell that has not sourced it."
fi
command -v "$PYTHON" >/dev/null || fail "there is no '$PYTHON'; choose an interpreter with: make setup PYTHON=/path/to/python3"
version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
case "$version" in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *) fail "'$PYTHON' is Python $version, but the ROS 2 wheels need 3.10 to 3.13; choose one with: make setup PYTHON=python3.12" ;;
esac

bash tools/system_packages.bash "$PYTHON"

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"; then
  echo "make setup: creating .venv with Python $version"
  "$PYTHON" -m venv --clear .venv
fi

install() {
  PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install "$@" | sed '/^Requirement already satisfied/d'
}
echo "make setup: installing the Python packages and ROS 2 (some 6 GB once; minutes)"
# The pip that comes with an older Python takes very long over so many requirements.
install "$(grep '^pip==' requirements.txt)"
install -r requirements.txt -r requirements-ros.txt
install --no-deps -r requirements-no-deps.txt
# Editable, so that .venv/bin/ovseg runs this folder's code from anywhere.
install --no-deps --no-build-isolation --editable .
.venv/bin/python tools/fix_ros_wheels.py
