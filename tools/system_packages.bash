#!/usr/bin/env bash
# Install the Debian packages that the build, OpenCV and the simulator need and that are missing; root only. Otherwise
# print the command to type. Usage: system_packages.bash PYTHON
set -euo pipefail
python="$1"

has_library() { ldconfig -p 2>/dev/null | grep -q "$1" || /sbin/ldconfig -p | grep -q "$1"; }
has_mesa_drivers() { compgen -G "/usr/lib/*/dri/swrast_dri.so" >/dev/null || compgen -G "/usr/lib/*/libgallium*.so" >/dev/null; }
has_python_headers() { "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; }
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v g++ >/dev/null || missing+=(g++)
has_library libGL.so.1 || missing+=(libgl1)
has_library libglib-2.0.so.0 || missing+=(libglib2.0-0)
has_library libEGL.so.1 || missing+=(libegl1)
has_library libGLESv2.so.2 || missing+=(libgles2)
has_mesa_drivers || missing+=(libgl1-mesa-dri)
has_python_headers || missing+=(python3-dev)
has_venv || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "make setup: missing on this system (names are Debian's): ${missing[*]}; install them and run make again" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "make setup: some Debian packages are missing. Type this, then run make again:" >&2
  echo "  sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "make setup: installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
