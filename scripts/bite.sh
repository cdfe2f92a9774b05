#!/usr/bin/env bash
# Shows that the checker bites: each seeded bug of the relay has to be rejected, on every seed.
# scripts/bite.sh <binary of the fault harness> <number of seeds> [bug ...]
set -euo pipefail

harness=$1
seeds=$2
shift 2
bugs=("$@")
if ((${#bugs[@]} == 0)); then
    bugs=(drops_last_row forgets_late_rows ignores_key_order takes_failure_for_success)
fi

# Where each of them hurts.
declare -A scenario=(
    [drops_last_row]=calm
    [forgets_late_rows]=open_writer
    [ignores_key_order]=limit_lowered
    [takes_failure_for_success]=limit_lowered
)

escaped=0
echo '| bug | scenario | seed | what the checker says |'
echo '|---|---|---|---|'
for bug in "${bugs[@]}"; do
    for ((seed = 1; seed <= seeds; seed++)); do
        said=$(OUTBOX_RELAY_BUG=$bug "$harness" --seed "$seed" "${scenario[$bug]}" 2>&1 || true)
        # The last line of a broken run names what was found; a panic of the harness has none.
        found=$(grep '^BROKEN' <<<"$said" | grep 'seed' | tail -n 1 | sed 's/^BROKEN [^:]*: //' || true)
        if [[ -z $found ]]; then
            found='NOT REJECTED'
            escaped=1
        fi
        echo "| $bug | ${scenario[$bug]} | $seed | $found |"
    done
done
exit "$escaped"
