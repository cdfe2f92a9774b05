#!/usr/bin/env bash
# Writes the rule files and their scenarios from their sources, and tests them: syntax, what fires when, that the scenarios notice
# every change of a rule, and where alerts arrive. `scripts/rules.sh check` writes nothing, fails where a committed file is old, and leaves
# out the changes of rules, which take minutes.
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."
python=${OUTBOX_RELAY_PYTHON:-target/python/bin/python3}
here=deploy/monitoring

running=()
say() { printf 'rules: %s\n' "$*" >&2; }

for source in rules scenarios dashboards; do
    "$python" $here/$source.py ${1:+--check}
done
promtool check rules --lint=all --lint-fatal $here/rules.yml >/dev/null
"$python" $here/lint.py
"$python" $here/scaled.py --check

say 'scenarios'
# Side by side: each takes one core for a minute.
for scenarios in $here/rules*_test.yml; do
    promtool test rules "$scenarios" &
    running+=($!)
done
for one in "${running[@]}"; do wait "$one"; done

amtool check-config $here/alertmanager.yml >/dev/null
arrives() { # receiver label=value …
    amtool config routes test --config.file=$here/alertmanager.yml --verify.receivers="$1" "${@:2}" >/dev/null ||
        { say "an alert with ${*:2} does not arrive at $1"; exit 1; }
}
arrives checkout-page severity=page owner=checkout job=shop
arrives checkout-tickets severity=ticket owner=checkout job=shop
arrives platform-page severity=page job=shop
arrives platform-page severity=page owner=nobody-known job=shop
arrives platform-tickets severity=ticket owner=nobody-known job=shop
arrives checkout-page severity=page owner=checkout job=shop cluster=east topic=orders

if [[ ${1:-} == check ]]; then exit 0; fi
say 'mutants'
"$python" $here/mutate.py
