#!/usr/bin/env bash
# test.sh GREETER: requests each page of the service.
set -euo pipefail

ask() {
    printf 'GET %s HTTP/1.1\r\nhost: greeter\r\n\r\n' "$1" | "$greeter" answer
}

expect() {
    local said
    said=$(ask "$1")
    case $said in
        "HTTP/1.1 $2 "*"$3") ;;
        *) echo "$1: $said" >&2; exit 1 ;;
    esac
}

greeter=$1
expect /healthz 200 ok
expect /greet/Ada 200 "Hello, Ada!"
expect /nowhere 404 "There is no such page."
