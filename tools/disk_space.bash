#!/usr/bin/env bash
# Before the first set-up: an error if the disk cannot hold it. pip would tell only after minutes of downloads.
set -euo pipefail
cd "$(dirname "$0")/.."
temporary="${TMPDIR:-/tmp}"

require() { # GB FOLDER [what else helps]
  local free
  free="$(df --output=avail --block-size=GB "$2" | tail -n 1 | tr -dc 0-9)"
  [ "$free" -ge "$1" ] && return
  echo "make setup: it needs $1 GB of free disk in $2, which has $free GB. Free some${3:-}, then run make again." >&2
  exit 1
}

# .venv and what is built come to 9 GB; until pip is done, 4 GB of wheels lie in its folder for temporary files.
elsewhere=", or set TMPDIR to a folder on another disk with 4 GB"
if [ "$(stat --format=%d .)" = "$(stat --format=%d "$temporary")" ]; then
  require 13 "$PWD" "$elsewhere"
else
  require 9 "$PWD"
  require 4 "$temporary" "$elsewhere"
fi
