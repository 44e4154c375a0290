#!/usr/bin/env bash
# A small service to try rei with: it greets. It serves on the socket that it inherits (LISTEN_FDS, as under systemd). Without one
# it serves on a port: greeter.sh 8080
#
# socat accepts the connections and starts this script again for each, with `answer`.
set -euo pipefail

# Descriptors 0, 1 and 2 are input, output and errors.
first_inherited=3
# How long the service waits for a client, in seconds.
patience=10
connections_max=64

answer() {
    local path status=200 reason=OK text
    read -r -t "$patience" _ path _
    # Read the rest of the head, to its empty line.
    while read -r -t "$patience" line && [ "${line%$'\r'}" != "" ]; do :; done
    case $path in
        /healthz) text=ok ;;
        /greet/?*) text="Hello, ${path#/greet/}!" ;;
        *) status=404 reason="Not Found" text="There is no such page." ;;
    esac
    text+=$'\n'
    printf 'HTTP/1.1 %s %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %s\r\nconnection: close\r\n\r\n%s' \
        "$status" "$reason" "${#text}" "$text"
}

if [ "${1:-}" = answer ]; then
    answer
elif [ "${LISTEN_PID:-}" = $$ ] && [ "${LISTEN_FDS:-}" = 1 ]; then
    exec socat "ACCEPT-FD:$first_inherited,fork,max-children=$connections_max" "EXEC:$0 answer"
else
    exec socat "TCP-LISTEN:${1:-8080},bind=127.0.0.1,reuseaddr,fork,max-children=$connections_max" "EXEC:$0 answer"
fi
