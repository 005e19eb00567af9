#!/usr/bin/env bash
# setup.sh [venv|tests]: installs what this machine lacks, so that `docker compose` works and the
# base images exist. `venv` adds what Python needs to make virtual environments; `tests` adds the
# browser to that. It changes nothing that is there already. With nothing to do it takes well under
# a second.
#
# It writes what it finds out about the machine to .machine.env, which the Makefile passes to
# Compose. Progress goes to stderr, one line for each step. When it cannot continue, it exits with
# status 1 and one line on stderr.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The official base images. Compose holds the same defaults; tests/static keeps them equal.
readonly OFFICIAL_PYTHON=python:3.13.12-slim-trixie
readonly OFFICIAL_POSTGRES=postgres:17.11-trixie
readonly OFFICIAL_CADDY=caddy:2.11.7-alpine
# What stands in for them where no registry can be reached; the tag changes with the recipe.
STANDIN_RECIPE=$(cat machine/standin/* | sha256sum | cut -c 1-8)
readonly STANDIN_DEBIAN=standin/debian:trixie
readonly STANDIN_PYTHON=standin/python:3.13-trixie-$STANDIN_RECIPE
readonly STANDIN_POSTGRES=standin/postgres:17-trixie-$STANDIN_RECIPE
readonly STANDIN_CADDY=standin/caddy:2-trixie-$STANDIN_RECIPE

# Older ones do not override what is included (docker/compose#11404).
readonly COMPOSE_NEEDED=2.26
readonly MACHINE_ENV=.machine.env
readonly ENGINE_LOG=/var/log/dockerd.log
readonly ENGINE_START_SECONDS=60
# Base images, ours and the build cache take 1.5 GB (docker system df); the rest is room for runs.
readonly DISK_NEEDED_MIB=${DISK_NEEDED_MIB:-4096}

main() {
    require_disk
    ensure_python
    [ -z "${1:-}" ] || ensure_venv
    ensure_engine
    ensure_base_images
    write_machine_env
    [ "${1:-}" != tests ] || ensure_browser
}

say() { printf 'setup: %s\n' "$*" >&2; }
refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
quietly() { # runs a command; its output is shown only if it fails
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        refuse "this failed (output above): $*"
    fi
    rm -f "$log"
}

is_root() { [ "$(id -u)" -eq 0 ]; }
is_debian_like() { command -v apt-get >/dev/null; }

apt_install() {
    is_debian_like || refuse "cannot install $* here: this is not Debian or Ubuntu; install it and try again"
    is_root || refuse "cannot install $* without root: run this once as root, or install it and try again"
    quietly apt-get update
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

# --- disk ----------------------------------------------------------------------------------

require_disk() {
    local root=/var/lib/docker free
    while [ ! -d "$root" ]; do root=$(dirname "$root"); done
    free=$(df --output=avail -m "$root" | tail -n 1)
    [ "$free" -ge "$DISK_NEEDED_MIB" ] ||
        refuse "too little disk: $((free)) MiB free at $root, $DISK_NEEDED_MIB MiB needed; free some (docker builder prune) or set DISK_NEEDED_MIB"
}

# --- python: the operator's commands and the tests run on the host ------------------------------

ensure_python() {
    command -v python3 >/dev/null || {
        say "installing python3"
        apt_install python3
    }
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "python3 is older than 3.11: install a newer one and put it first in PATH"
}

# Debian ships `python3 -m venv` without the part that installs pip into the environment.
makes_venvs() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

ensure_venv() {
    makes_venvs && return
    say "installing python3-venv"
    apt_install python3-venv
    makes_venvs || refuse "$(command -v python3) cannot make virtual environments: install its modules venv and ensurepip"
}

ensure_browser() {
    [ ! -x /usr/bin/chromium ] || return 0
    say "installing chromium for the browser tests"
    apt_install chromium
}

# --- container engine ---------------------------------------------------------------------

engine_answers() { docker info >/dev/null 2>&1; }
compose_is_new_enough() {
    local version
    version=$(docker compose version --short)
    printf '%s\n' "$COMPOSE_NEEDED" "${version#v}" | sort -VC
}
plugins_answer() { docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; }

ensure_engine() {
    if ! engine_answers; then
        [ -z "${DOCKER_HOST:-}" ] || refuse "no engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST"
        is_root || refuse "no Docker engine answers and this is not root: install Docker, start it, and put yourself in the group docker (or run this once as root)"
        command -v dockerd >/dev/null || install_engine
        engine_answers || start_engine
    fi
    plugins_answer || install_engine
    plugins_answer || refuse "docker compose (v2) or docker buildx is missing: install the two plugins, https://docs.docker.com/compose/install/linux/"
    compose_is_new_enough || refuse "docker compose $(docker compose version --short) is too old, $COMPOSE_NEEDED is needed: https://docs.docker.com/compose/install/linux/"
}

install_engine() {
    # shellcheck source=/dev/null
    . /etc/os-release
    local packages
    case "$ID:${VERSION_ID:-}" in
    debian:12)
        packages="docker.io docker-cli docker-buildx docker-compose"
        # Debian 12 itself has Engine 20.10 and Compose 1.29, both past their end of life.
        borrow_from_trixie "$packages"
        ;;
    debian:13) packages="docker.io docker-cli docker-buildx docker-compose" ;;
    ubuntu:22.04 | ubuntu:24.04 | ubuntu:25.* | ubuntu:26.*) packages="docker.io docker-buildx docker-compose-v2" ;;
    *) refuse "do not know how to install Docker on $ID ${VERSION_ID:-}: install Docker Engine 25 or newer with Compose v2 and Buildx, https://docs.docker.com/engine/install/" ;;
    esac
    say "installing $packages"
    # shellcheck disable=SC2086  # a list of words
    apt_install $packages
}

# The host's own mirror for a suite, whatever form its sources are written in. Sources may also say
# `stable`: apt knows the code name of that once it has read the indexes.
apt_mirror() { # suite
    # shellcheck disable=SC2016  # apt fills these in
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CODENAME)' 'Created-By: Packages' |
        awk -v suite="$1" '$2 == suite || $3 == suite { print $1; exit }'
}

# What the host calls its Debian, for asking apt_mirror.
host_codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
}

# apt source lines of trixie on the host's own mirror, security updates included.
trixie_sources() {
    local host mirror security
    host=$(host_codename)
    mirror=$(apt_mirror "$host")
    security=$(apt_mirror "$host-security")
    [ -n "$mirror" ] || refuse "no apt source for $host found on this machine: cannot tell which Debian mirror to use"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror"
    [ -z "$security" ] || printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie-security main\n' "$security"
}

borrow_from_trixie() { # packages
    say "taking these from Debian 13 (pinned to them alone): $1"
    trixie_sources >/etc/apt/sources.list.d/dagster-docker-engine.list
    cat >/etc/apt/preferences.d/dagster-docker-engine <<PINS
Package: *
Pin: release n=trixie*
Pin-Priority: -1

Package: $1
Pin: release n=trixie*
Pin-Priority: 990
PINS
}

start_engine() {
    if [ -d /run/systemd/system ]; then
        say "starting the Docker engine (systemctl start docker)"
        quietly systemctl start docker
    else
        start_engine_without_init
    fi
    local waited=0
    until engine_answers; do
        waited=$((waited + 1))
        [ "$waited" -le "$((ENGINE_START_SECONDS * 5))" ] || refuse_engine "did not answer within $ENGINE_START_SECONDS s"
        [ -z "${engine_pid:-}" ] || kill -0 "$engine_pid" 2>/dev/null || refuse_engine "stopped at once"
        sleep 0.2
    done
}

start_engine_without_init() {
    say "starting the Docker engine (no init system here; its log: $ENGINE_LOG)"
    # A killed dockerd leaves its pid file; once another process has that pid, dockerd will not start.
    local pidfile=/var/run/docker.pid
    if [ -f "$pidfile" ] && [ "$(cat "/proc/$(cat "$pidfile")/comm" 2>/dev/null)" != dockerd ]; then
        rm -f "$pidfile"
    fi
    setsid dockerd >>"$ENGINE_LOG" 2>&1 </dev/null &
    engine_pid=$!
}

refuse_engine() {
    tail -n 20 "$ENGINE_LOG" >&2 2>/dev/null || journalctl -u docker -n 20 --no-pager >&2 || :
    refuse "the Docker engine $1; the end of its log is above"
}

# --- base images ---------------------------------------------------------------------------

images_exist() { docker image inspect "$@" >/dev/null 2>&1; }

ensure_base_images() {
    python_image=${PYTHON_IMAGE:-$OFFICIAL_PYTHON}
    postgres_image=${POSTGRES_IMAGE:-$OFFICIAL_POSTGRES}
    caddy_image=${CADDY_IMAGE:-$OFFICIAL_CADDY}
    if images_exist "$python_image" "$postgres_image" "$caddy_image"; then return; fi
    if images_exist "$STANDIN_PYTHON" "$STANDIN_POSTGRES" "$STANDIN_CADDY"; then
        use_standins
        return
    fi
    say "pulling $python_image, $postgres_image and $caddy_image"
    if pull "$python_image" && pull "$postgres_image" && pull "$caddy_image"; then return; fi
    say "the image registry cannot be reached; building stand-ins from Debian packages instead"
    build_standins
    use_standins
}

use_standins() {
    python_image=$STANDIN_PYTHON
    postgres_image=$STANDIN_POSTGRES
    caddy_image=$STANDIN_CADDY
}

pull() { # image; fails only when the registry is out of reach
    images_exist "$1" && return 0
    local answer
    answer=$(timeout 600 docker pull --quiet "$1" 2>&1) && return 0
    case "$answer" in
    *"no such host"* | *"i/o timeout"* | *"connection refused"* | *"network is unreachable"* | *"deadline exceeded"* | *"x509"* | *"Client.Timeout"* | *"server misbehaving"*) return 1 ;;
    *) refuse "docker pull $1: ${answer:-not finished after 600 s}" ;;
    esac
}

build_standins() {
    command -v mmdebstrap >/dev/null || apt_install mmdebstrap
    if ! images_exist "$STANDIN_DEBIAN"; then
        say "building $STANDIN_DEBIAN"
        local root
        root=$(mktemp)
        trixie_sources | quietly mmdebstrap --variant=minbase --include=ca-certificates --format=tar trixie "$root" -
        quietly docker import --change 'CMD ["bash"]' "$root" "$STANDIN_DEBIAN"
        rm -f "$root"
    fi
    build_standin python "$STANDIN_PYTHON"
    build_standin postgres "$STANDIN_POSTGRES"
    build_standin caddy "$STANDIN_CADDY" --build-arg "PACKAGE_INDEX=$(package_index)"
}

build_standin() { # target, image, further arguments of docker build
    say "building $2"
    quietly docker build --target "$1" --tag "$2" --build-arg "DEBIAN_IMAGE=$STANDIN_DEBIAN" \
        --secret "id=ca_bundle,src=$(ca_bundle)" "${@:3}" machine/standin
}

# --- what the builds need to know --------------------------------------------------------------

# The host's CA bundle where somebody has added an authority of their own to it (a company's
# proxy, say), else nothing: then the base image's own bundle is right.
ca_bundle() {
    if [ -n "${CA_BUNDLE:-}" ]; then
        printf '%s' "$CA_BUNDLE"
    elif compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        printf '/etc/ssl/certs/ca-certificates.crt'
    else
        printf '/dev/null'
    fi
}

# The package index that pip on this host is configured with, if any.
package_index() {
    if [ -n "${PIP_INDEX_URL:-}" ]; then
        printf '%s' "$PIP_INDEX_URL"
    else
        python3 machine/package_index.py
    fi
}

# The Maven repository that this host is configured with, if any.
maven_repository() {
    if [ -n "${MAVEN_REPOSITORY:-}" ]; then
        printf '%s' "$MAVEN_REPOSITORY"
    else
        python3 machine/maven_repository.py
    fi
}

write_machine_env() {
    local new
    new=$(printf '# Written by machine/setup.sh: what it found on this machine.\nPYTHON_IMAGE=%s\nPOSTGRES_IMAGE=%s\nCADDY_IMAGE=%s\nCA_BUNDLE=%s\nPIP_INDEX_URL=%s\nMAVEN_REPOSITORY=%s' \
        "$python_image" "$postgres_image" "$caddy_image" "$(ca_bundle)" "$(package_index)" "$(maven_repository)")
    [ "$new" = "$(cat "$MACHINE_ENV" 2>/dev/null)" ] || printf '%s\n' "$new" >"$MACHINE_ENV"
}

main "$@"
