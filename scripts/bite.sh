#!/usr/bin/env bash
# Shows that the checker bites: each seeded bug of the relay has to be rejected, on every seed. Prints docs/bite.md.
# Exit code 1: one got away.
# scripts/bite.sh <binary of the fault harness> <number of seeds> [bug ...]
set -euo pipefail

harness=$1
seeds=$2
shift 2

# Each bug of src/crash_point.rs, the scenario in which it hurts, and what the relay does. tests/it/tidy.rs compares the lists.
bugs='
marks_before_confirm       relay_killed_in_flight  a row counts as published once it is handed over
no_fencing                 relay_frozen            a deposed leader goes on: nobody looks at the epoch, the token or the lease
drops_last_row             calm                    the last row of a page is not sent
ignores_key_order          limit_lowered           later rows of a key pass one that is retried
unblocks_early             dead_letter_flood       a key is free although rows of it are decided to wait and not yet settled
swallows_error             limit_lowered           a refused row is neither deferred nor a dead letter
takes_timeout_for_success  lonely_replica_gone     a record of which there is no report counts as confirmed when its producer is given up
forgets_late_rows          open_writer             rows that become visible behind the position are not read
keeps_memory_behind_pooler pooler_postgres_crashed_alone after a crash of Postgres reading goes on where it was, not where the ledger says
trims_unaccounted          slots_emptied           a slot is emptied although rows in it are open
'

for wanted in "$@"; do
    if ! grep -q "^$wanted " <<<"$bugs"; then
        echo "there is no seeded bug $wanted" >&2
        exit 2
    fi
done

cat <<EOF
# The checker bites

Each of these bugs is seeded into the relay (\`OUTBOX_RELAY_BUG\`, in debug builds only) while the fault harness plays one scenario
against it, on several seeds. Without the bug the scenario holds; with it the checker of histories has to say what is broken, and a
history that merely shows too little (\`Unsound\`) is no answer. \`make bite\` plays all of it again,
\`make bite SEEDS=1 BUGS='drops_last_row no_fencing'\` a part.

Played on $(date -u +%Y-%m-%d).

| bug | what the relay does | scenario | seed | what the checker says |
|---|---|---|---|---|
EOF

# One cluster for all bugs of a seed; lines of the harness name what was found.
harness_says=$(mktemp)
trap 'rm -f "$harness_says"' EXIT
for ((seed = 1; seed <= seeds; seed++)); do
    pairs=()
    while read -r bug scenario _; do
        if [[ -n $bug && ($# -eq 0 || " $* " == *" $bug "*) ]]; then pairs+=("$scenario+$bug"); fi
    done <<<"$bugs"
    "$harness" --seed "$seed" "${pairs[@]}" >>"$harness_says" </dev/null || true
done

escaped=0
while read -r bug scenario what; do
    if [[ -z $bug || ($# -gt 0 && " $* " != *" $bug "*) ]]; then continue; fi
    for ((seed = 1; seed <= seeds; seed++)); do
        said=$(sed -n "s/^BROKEN $scenario+$bug (seed $seed): //p" "$harness_says")
        # Only what the checker finds counts: not a time, and not that a history shows too little.
        found=$(tr ';' '\n' <<<"$said" | grep -E '^ ?[A-Z][A-Za-z]+: [0-9]+$' | grep -v Unsound | paste -sd ';' || true)
        if [[ -z $found ]]; then
            found="NOT REJECTED ${said:+($said)}"
            escaped=1
        fi
        echo "| $bug | $what | $scenario | $seed | ${found# } |"
    done
done <<<"$bugs"
exit "$escaped"
