#!/usr/bin/env bash
# Fetches the server binaries of one major version of Postgres, as deploy/postgres/versions names them, into the
# directory given: `scripts/postgres.sh 18 target/postgres/18` leaves target/postgres/18/bin/postgres.
# The release, its checksum and what the system lacks to run it are judged here; nothing is installed.
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."

say() { printf 'postgres: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

major=${1:?the major version of Postgres}
into=$(realpath -m "${2:?the directory to fill}")

elsewhere="install Postgres $major yourself and name its bin directory in OUTBOX_RELAY_POSTGRES_BIN"
case $(uname -s)-$(uname -m) in
Linux-x86_64) platform=linux-amd64 ;;
Linux-aarch64) platform=linux-arm64v8 ;;
*) die "there are no binaries for $(uname -s) on $(uname -m): $elsewhere" ;;
esac
read -r release sum < <(awk -v major="$major" -v machine="$(uname -m)" \
    '$1 == major && $2 == machine { print $3, $4 }' deploy/postgres/versions) ||
    die "version $major is not in deploy/postgres/versions for $(uname -m): $elsewhere"
command -v xz >/dev/null || die 'xz is missing (Debian, Ubuntu: apt-get install xz-utils)'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "fetching Postgres $release with Maven into $into"
for try in 1 2 3; do
    if mvn -q -B -Dstyle.color=never -f deploy/postgres/pom.xml -Dpostgres.version="$release" \
        -Dpostgres.platform="$platform" -Dpostgres.jars="$work/jars" \
        -Dmaven.wagon.http.retryHandler.count=3 package >"$work/log" 2>&1; then
        break
    fi
    say "try $try failed:"
    # Maven writes colours even where it is told not to.
    sed 's/\x1b\[[0-9;]*m//g' "$work/log" | tail -n 20 >&2
    ((try < 3)) || exit 1
done

jar=$(echo "$work"/jars/*.jar)
found=$(sha256sum "$jar")
found=${found%% *}
[[ $found == "$sum" ]] || die "the jar of release $release is not the one that is expected: its SHA-256 is $found, deploy/postgres/versions says $sum"

mkdir "$work/jar" "$work/server"
(cd "$work/jar" && jar xf "$jar")
tar -xJf "$work"/jar/*.txz -C "$work/server" --no-same-owner
chmod -R a+rX "$work/server"

missing=$(ldd "$work/server/bin/postgres" | awk '/not found/ { printf "%s ", $1 }')
[[ -z $missing ]] || die "release $release cannot run here, these libraries are missing: $missing"

# Into place at once: an unfinished directory must not look like a server.
mkdir -p "$(dirname "$into")"
rm -rf "$into"
mv "$work/server" "$into"

# Root hands its servers to another user, who has to reach them: below a home directory that is private he does not.
as=()
if [[ $EUID == 0 ]]; then
    user=$(id -un postgres 2>/dev/null || echo nobody)
    as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups --)
fi
"${as[@]}" "$into/bin/postgres" --version >"$work/log" 2>&1 ||
    die "${user:-this user} cannot run $into/bin/postgres: $(cat "$work/log"); every directory above it must let others pass (chmod o+x)"
say "$(cat "$work/log")"
