#!/usr/bin/env bash
# Installs what the build, the demo and the tests need and this machine lacks. Debian and Ubuntu, as root or through
# sudo. Says what it installs and why; without anything to do it says nothing.
#
#   scripts/setup.sh              what every target needs
#   scripts/setup.sh compose      the compose tool as well, to check docker-compose.yml
#   scripts/setup.sh guard        valgrind as well, which counts instructions
set -euo pipefail
exec </dev/null
export DEBIAN_FRONTEND=noninteractive

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

packages=()
want() { # package reason
    packages+=("$1")
    say "missing: $1 ($2)"
}

java_version() { # the main version of the java that will be run, 0 without one
    local java=${JAVA_HOME:+$JAVA_HOME/bin/}java line
    line=$("$java" -version 2>&1 | grep -m1 -o 'version "[0-9]*' || true)
    echo "${line:+${line##*\"}}" | grep -E '^[0-9]+$' || echo 0
}

# The tests run a program of one source file against Kafka's own classes: that takes the compiler as well.
has_javac() { [[ -x ${JAVA_HOME:+$JAVA_HOME/bin/javac} ]] || { [[ -z ${JAVA_HOME:-} ]] && has javac; }; }

has_postgres() {
    [[ -n ${OUTBOX_RELAY_POSTGRES_BIN:-} && -x ${OUTBOX_RELAY_POSTGRES_BIN:-}/initdb ]] && return
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
    has postgres && has initdb
}

# Debian puts it where only root's PATH leads.
has_pgbouncer() { has pgbouncer || [[ -x /usr/sbin/pgbouncer ]]; }

has_compose() { docker compose version >/dev/null 2>&1 || has docker-compose; }

look() {
    packages=()
    { has cc && has c++ && has make; } || want build-essential 'compiles librdkafka, zstd and zlib'
    has pkg-config || want pkg-config 'finds OpenSSL for the build'
    [[ -e /usr/include/openssl/ssl.h ]] || pkg-config --exists openssl 2>/dev/null ||
        want libssl-dev 'TLS and SASL to Kafka'
    has setpriv || want util-linux 'setpriv, to run private servers without rights and end them with us'
    has_postgres || want postgresql 'the Postgres server that demo and tests start privately'
    has_pgbouncer || want pgbouncer 'the connection pooler that the tests start privately'
    has promtool || want prometheus 'promtool checks metrics, rules and alerts'
    has chromium || want chromium 'looks at the status page in tests'
    has amtool || want prometheus-alertmanager 'amtool checks how alerts are routed'
    python3 -c 'import ensurepip, venv' 2>/dev/null || want python3-venv 'checks rules, dashboards and manifests'
    { (($(java_version) >= 17)) && has_javac; } || want java 'JDK 17 or newer, runs Apache Kafka'
    has mvn || want maven 'fetches Apache Kafka'
    [[ ${1:-} != guard ]] || has valgrind || want valgrind 'counts the instructions that a row takes'
    [[ ${1:-} != compose ]] || has_compose || want docker-compose 'checks docker-compose.yml, without an engine'
}

as_root() {
    if [[ $EUID == 0 ]]; then "$@"; else sudo env DEBIAN_FRONTEND=noninteractive "$@"; fi
}

# What apt writes is shown only when it fails.
apt() {
    local log status=0
    log=$(mktemp)
    as_root apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 || status=$?
    if ((status != 0)); then tail -n 30 "$log" >&2; fi
    rm -f "$log"
    return "$status"
}

# Tries with the package lists as they are, and once more with new ones: they may be absent or old.
install() {
    say "installing: $*"
    apt install --no-install-recommends "$@" && return
    say 'trying again with new package lists'
    apt update || say 'apt-get update reports trouble; going on'
    apt install --no-install-recommends "$@"
}

# Debian's package creates a server on port 5432 and starts it, unless told otherwise beforehand. Ours are private, so
# it is told; afterwards the machine's own choice stands again for servers that somebody else installs.
install_postgres() {
    local conf=/etc/postgresql-common/createcluster.conf saved status=0
    install postgresql-common
    saved=$(mktemp)
    cp "$conf" "$saved"
    echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null
    install postgresql || status=$?
    as_root cp "$saved" "$conf"
    rm -f "$saved"
    return "$status"
}

# Debian's packages start a pooler on port 6432, a Prometheus on 9090 and so on, unless the machine's policy forbids it. Ours are
# private, or only their tools are wanted.
install_unstarted() {
    local policy=/usr/sbin/policy-rc.d ours='' status=0
    if [[ ! -e $policy ]]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    install "$@" || status=$?
    if [[ $ours ]]; then as_root rm -f "$policy"; fi
    return "$status"
}

java_package() {
    local version
    for version in 21 17 25; do
        if apt-cache show "openjdk-$version-jdk-headless" >/dev/null 2>&1; then
            echo "openjdk-$version-jdk-headless"
            return
        fi
    done
    echo default-jdk-headless
}

if ! has cargo; then
    die 'cargo not found: install a Rust toolchain first, see https://rustup.rs, and put ~/.cargo/bin on PATH'
fi

look "$@"
if ((${#packages[@]} == 0)); then exit 0; fi

has apt-get || die "no apt-get here: install the above (${packages[*]}) with this system's own tools"
[[ $EUID == 0 ]] || has sudo || die 'installing needs root or sudo'
compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt update

plain=() postgres='' unstarted=()
for package in "${packages[@]}"; do
    case $package in
    postgresql) postgres=yes ;;
    pgbouncer | prometheus | prometheus-alertmanager) unstarted+=("$package") ;;
    java) plain+=("$(java_package)" ca-certificates-java) ;;
    *) plain+=("$package") ;;
    esac
done
if ((${#plain[@]})); then install "${plain[@]}"; fi
if [[ $postgres ]]; then install_postgres; fi
if ((${#unstarted[@]})); then install_unstarted "${unstarted[@]}"; fi

look "$@"
if ((${#packages[@]})); then
    die "still missing after installing: ${packages[*]}; an older java may come first on PATH or in JAVA_HOME"
fi
say 'done'
