#!/usr/bin/env bash
# Make .venv: Python packages and ROS 2 Kilted from wheels, at the versions that requirements*.txt pin. With
# ROS_DISTRO=jazzy, make .venv-jazzy as well: ROS 2 Jazzy, and everything else from .venv. Running it again only brings
# them up to date. PYTHON chooses the interpreter (3.10 to 3.13).
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
source tools/ros_distro.bash || exit 1
command -v "$PYTHON" >/dev/null || fail "there is no '$PYTHON'; choose an interpreter with: make setup PYTHON=/path/to/python3"
version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
case "$version" in
  3.10 | 3.11 | 3.12 | 3.13) ;;
  *) fail "'$PYTHON' is Python $version, but the ROS 2 wheels need 3.10 to 3.13; choose one with: make setup PYTHON=python3.12" ;;
esac

bash tools/system_packages.bash "$PYTHON"

create() {
  if [ ! -x "$1/bin/python" ] || ! "$1/bin/python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"; then
    echo "make setup: creating $1 with Python $version"
    "$PYTHON" -m venv --clear "$1"
  fi
}
install() {
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$1/bin/python" -m pip install "${@:2}" | sed '/^Requirement already satisfied/d'
}
finish() {
  # Editable, so that the command `ovseg` runs this folder's code from anywhere.
  install "$1" --no-deps --no-build-isolation --editable .
  "$1/bin/python" tools/fix_ros_wheels.py
}

[ -x .venv/bin/ovseg ] || "$PYTHON" tools/disk_space.py
create .venv
echo "make setup: installing the Python packages and ROS 2 (9 GB; minutes)"
# The pip that comes with an older Python takes very long over so many requirements.
install .venv "$(grep '^pip==' requirements.txt)"
install .venv -r requirements.txt -r requirements-ros-kilted.txt
install .venv --no-deps -r requirements-no-deps.txt
finish .venv
[ "$venv" = .venv ] && exit 0

# Another distribution: its wheels alone, and after them on the path what .venv holds. While pip works, that line is
# not there, or pip would take Kilted's wheels for what the others need. Python does not carry out .venv's own .pth files
# here, so nothing of Kilted is set up.
create "$venv"
echo "make setup: installing ROS 2 $ROS_DISTRO"
packages="lib/python$version/site-packages"
rm -f "$venv/$packages/everything_else.pth"
install "$venv" -r "requirements-ros-$ROS_DISTRO.txt" pytest pytest-timeout setuptools wheel -c requirements.txt
finish "$venv"
echo "$PWD/.venv/$packages" >"$venv/$packages/everything_else.pth"
