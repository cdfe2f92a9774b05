#!/usr/bin/env bash
# Fetches Apache Kafka's jars into the directory given (target/kafka/lib), as deploy/kafka/pom.xml names them.
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."

lib=$(realpath -m "${1:-target/kafka/lib}")
fresh=$lib.new
echo "kafka: fetching Apache Kafka's jars with Maven into $lib" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for try in 1 2 3; do
    # Into a new directory: a jar of an earlier version must not stay behind.
    rm -rf "$fresh"
    if mvn -q -B -U -Dstyle.color=never -f deploy/kafka/pom.xml -Dkafka.lib="$fresh" \
        -Dmaven.wagon.http.retryHandler.count=3 package >"$log" 2>&1; then
        rm -rf "$lib"
        mv "$fresh" "$lib"
        exit 0
    fi
    echo "kafka: try $try failed:" >&2
    # Maven writes colours even where it is told not to.
    sed 's/\x1b\[[0-9;]*m//g' "$log" | tail -n 20 >&2
done
exit 1
