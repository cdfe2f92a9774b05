#!/usr/bin/env bash
# Makes a Python of its own in target/python with the few libraries that rules, dashboards and manifests are checked with.
#
#   scripts/python.sh <directory>
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."
directory=$1

if [[ ! -x $directory/bin/pip ]]; then
    python3 -m venv "$directory"
fi
"$directory/bin/pip" install --quiet --disable-pip-version-check -r deploy/requirements.txt
