#!/usr/bin/env bash
# Fetches Apache Kafka's jars into the directory given (target/kafka/lib), as deploy/kafka/pom.xml names them.
#
#   scripts/kafka.sh target/kafka/lib           the release that pom.xml names
#   scripts/kafka.sh target/kafka-3.9/lib 3.9   the release that deploy/kafka/versions names for it
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."

lib=$(realpath -m "${1:-target/kafka/lib}")
fresh=$lib.new
release=()
if [[ ${2:-} ]]; then
    number=$(awk -v version="$2" '$1 == version { print $2 }' deploy/kafka/versions)
    if [[ -z $number ]]; then
        echo "kafka: version $2 is not in deploy/kafka/versions" >&2
        exit 1
    fi
    release=(-Dkafka.version="$number")
fi
echo "kafka: fetching Apache Kafka's jars ${number:+of $number }with Maven into $lib" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for try in 1 2 3; do
    # Into a new directory: a jar of an earlier version must not stay behind.
    rm -rf "$fresh"
    if mvn -q -B -U -Dstyle.color=never -f deploy/kafka/pom.xml -Dkafka.lib="$fresh" "${release[@]}" \
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
