# What the scripts beside this file share; they source it. A broker lives in one folder:
#   ports       the ports it was given at its first start and keeps
#   env         one line for the tests, NAME=ADDRESS; written once the first start succeeded
#   pid         the broker's process
#   server.log  what the broker printed since its last start
# shellcheck shell=bash

set -euo pipefail
# Without it a command that fails inside $(…) goes unnoticed.
shopt -s inherit_errexit

# The folder's name in the environment of a broker marks all processes of that broker, whatever they forked:
# no stale process number can hit a stranger, and no child is forgotten.
broker_processes() {
    { grep --files-with-matches --null-data --no-messages --fixed-strings "BROKER_FOLDER=$1/" /proc/[0-9]*/environ || true; } |
        cut --delimiter=/ --fields=3
}

signal_brokers() {
    local processes
    mapfile -t processes < <(broker_processes "$2")
    # A process may be gone between the two lines.
    [[ ${#processes[@]} -eq 0 ]] || kill "-$1" "${processes[@]}" 2>/dev/null || true
}

# Kills every broker in the folder or below it, and returns when they are gone.
kill_brokers() {
    for _ in {1..200}; do
        [[ -n $(broker_processes "$1") ]] || return 0
        signal_brokers KILL "$1"
        sleep 0.02
    done
    fail "processes survive kill -9: $(broker_processes "$1" | xargs)"
}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# cached NAME COMMAND…: the path of a folder that COMMAND, given that path as its last argument, fills on first use.
# A folder without the file `complete` was interrupted and is made again; the lock lets two runs share it.
cached() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/green-api-bridge-tests
    local made=$cache/$1
    shift
    mkdir -p "$cache"
    (
        flock 9
        [[ -e $made/complete ]] || {
            rm -rf "$made" && mkdir "$made" && "$@" "$made" >&2 && touch "$made/complete"
        }
    ) 9>"$made.lock" || return
    echo "$made"
}

hash_of_input() {
    sha256sum | cut --characters=1-16
}

is_listening() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# As many different free ports as asked for, on one line. They lie below the range of outgoing connections (32768 and up):
# there a client could take the port while its broker is down, or a reconnecting client could end up connected to itself.
# And nobody else is given them as long as the folder is there: a broker that was killed needs them again.
free_ports() {
    local given ports port taken
    given=${XDG_CACHE_HOME:-$HOME/.cache}/green-api-bridge-tests/ports
    mkdir -p "${given%/*}"
    (
        flock 9
        taken=$(while read -r port taken; do [[ ! -d $taken ]] || echo "$port $taken"; done <&9)
        while true; do
            mapfile -t ports < <(shuf --input-range=20000-31999 --head-count="$1")
            for port in "${ports[@]}"; do
                if grep --quiet "^$port " <<<"$taken" || is_listening "$port"; then continue 2; fi
            done
            break
        done
        { [[ -z $taken ]] || echo "$taken"; printf "%s $folder\n" "${ports[@]}"; } >"$given"
        echo "${ports[*]}"
    ) 9<>"$given"
}

# In the background, in a session of its own and with no inherited output: neither the end of the calling shell nor
# a reader waiting for the end of its output is tied to the broker.
detach() {
    env "BROKER_FOLDER=$folder/" setsid "$@" </dev/null >>"$folder/server.log" 2>&1 &
    launched=$!
}

# On a busy machine a process that was just launched may not have reached its `env` yet, and bears no mark.
is_running() {
    kill -0 "$launched" 2>/dev/null || [[ -n $(broker_processes "$folder") ]]
}

# Everything below uses what the script that sourced us defines: the functions `configure`, `launch` and `address`, and
: "${ports_needed:=1}" "${ready_line:=}"

launch_and_await() {
    [[ ! -e $folder/server.log ]] || mv "$folder/server.log" "$folder/server.previous.log"
    rm -f "$folder/pid"
    : >"$folder/server.log"
    read -ra ports <"$folder/ports"
    launch || return 1
    for _ in {1..900}; do
        if grep --quiet "$ready_line" "$folder/server.log" && is_listening "${ports[0]}"; then
            return 0
        fi
        sleep 0.1
        is_running || return 1
    done
    echo "not ready after 90 seconds" >>"$folder/server.log"
    return 1
}

start() {
    mkdir -p "$folder"
    [[ -z $(broker_processes "$folder") ]] || fail "the broker in $folder is running already"
    if [[ -e $folder/env ]]; then
        ! launch_and_await || return 0
    else
        for _ in 1 2 3; do
            # One of a cluster is given its ports by whoever starts that.
            [[ -e $folder/ports ]] || free_ports "$ports_needed" >"$folder/ports"
            read -ra ports <"$folder/ports"
            configure
            if launch_and_await; then
                address >"$folder/env"
                return 0
            fi
            kill_brokers "$folder"
            # Someone else may have taken a port since we looked.
            grep --quiet --ignore-case --extended-regexp 'address already in use|eaddrinuse' "$folder/server.log" || break
            rm "$folder/ports"
        done
    fi
    kill_brokers "$folder"
    tail --lines=40 "$folder/server.log" >&2
    fail "the broker did not start; above is the end of $folder/server.log"
}

# An orderly end, as an operator would do it.
stop() {
    local process
    resume
    if process=$(cat "$folder/pid" 2>/dev/null) && [[ -n $(broker_processes "$folder") ]]; then
        kill -TERM "$process" 2>/dev/null || true
        for _ in {1..300}; do
            kill -0 "$process" 2>/dev/null || break
            sleep 0.1
        done
    fi
    kill_brokers "$folder"
}

pause() {
    signal_brokers STOP "$folder"
}

resume() {
    signal_brokers CONT "$folder"
}

run_command() {
    [[ $# -eq 2 && $1 =~ ^(start|stop|kill|pause|resume)$ ]] || fail "usage: ${0##*/} start|stop|kill|pause|resume FOLDER"
    folder=$(realpath --canonicalize-missing "$2")
    case $1 in
        start) start && cat "$folder/env" ;;
        kill) kill_brokers "$folder" ;;
        *) "$1" ;;
    esac
}
