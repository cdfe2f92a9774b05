#!/usr/bin/env bash
# Checks docker-compose.yml with the compose tool that is there: docker's plugin, else the tool that Debian packages.
# Neither needs an engine for this.
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."

if docker compose version >/dev/null 2>&1; then
    docker compose -f docker-compose.yml config -q
else
    docker-compose -f docker-compose.yml config -q
fi
