# What tests/image and tests/packages share; they source it, behind tests/brokers/common.sh. Containers run in a storage and with
# settings of their own: nothing of the machine's podman is used or changed. `temporary` is the folder of the run.
# shellcheck shell=bash

heading() {
    echo
    echo "=== $* (after $SECONDS s)"
}

# eventually SECONDS WHAT COMMAND…: waits until the command succeeds.
eventually() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$temporary/last" 2>&1; do
        [[ $SECONDS -lt $end ]] || { cat "$temporary/last" >&2 && fail "not within its time: $what"; }
        sleep 0.2
    done
    echo "ok: $what"
}

install_missing() {
    local program missing=()
    for program in podman buildah runc debootstrap; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [[ -x /usr/lib/podman/aardvark-dns ]] || missing+=(netavark aardvark-dns)
    [[ ${#missing[@]} -eq 0 ]] || { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; }
}

# Its own storage and settings: nothing of the machine's podman is used or changed.
configure_podman() {
    local storage=${XDG_CACHE_HOME:-$HOME/.cache}/green-api-bridge-tests/containers files
    files=$(ulimit -Hn)
    mkdir -p "$storage"
    export CONTAINERS_CONF=$temporary/containers.conf CONTAINERS_STORAGE_CONF=$temporary/storage.conf
    export CONTAINERS_REGISTRIES_CONF=$temporary/registries.conf
    cat >"$CONTAINERS_CONF" <<END
[containers]
# Podman's own defaults may exceed what this machine lets us have.
default_ulimits = ["nofile=$files:$files", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
    cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$storage"
runroot = "$temporary/run"
END
    echo 'unqualified-search-registries = ["docker.io"]' >"$CONTAINERS_REGISTRIES_CONF"
}

# SUITE FOLDER: with what this machine's clients need to reach their registries.
fill_debian() {
    local file
    set -- "$2" "$1"
    debootstrap --variant=minbase --include=ca-certificates "$2" "$1/root" >"$1/log" || return
    echo force-unsafe-io >"$1/root/etc/dpkg/dpkg.cfg.d/image"
    for file in /usr/local/share/ca-certificates/*.crt /etc/apt/apt.conf.d/*proxy* /etc/pip.conf \
        "$HOME"/{.config/pip/pip.conf,.cargo/config.toml}; do
        [[ ! -e $file ]] || cp --parents "$file" "$1/root"
    done
    chroot "$1/root" update-ca-certificates >/dev/null 2>&1
    rm -f "$1/root/var/cache/apt/archives"/*.deb
}

# make_debian VERSION SUITE: the image localhost/debian:VERSION.
make_debian() {
    local made
    made=$(cached "debian-$1" fill_debian "$2")
    podman image exists "localhost/debian:$1" ||
        tar --create --directory "$made/root" . | podman import --change 'ENV DEBIAN_FRONTEND=noninteractive' - "localhost/debian:$1"
}

# build NAME FOLDER ARGUMENTS…
build() {
    podman build --quiet --format docker --network host --tag "$1" "${@:3}" "$2" >/dev/null || fail "cannot build $1"
    echo "built $1"
}

remove_all() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    podman volume rm --all --force >/dev/null 2>&1 || true
    podman network rm --force "$project" >/dev/null 2>&1 || true
}

finish() {
    local status=$?
    trap '' INT TERM HUP
    [[ $status -eq 0 ]] || podman ps --all >&2 || true
    remove_all
    rm -rf "$temporary"
    exit $status
}

# Before anything else.
begin() {
    [[ $EUID -eq 0 ]] || fail 'needs root'
    project=bridge-test
    install_missing
    temporary=$(mktemp --directory /var/tmp/containers.XXXXXX)
    trap finish EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    configure_podman
    remove_all
}
