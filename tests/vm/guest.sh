#!/bin/bash
# What the machine does when its boot is complete: goes on with the scenarios, and tells the host how they ended.
port() {
    local dir
    for dir in /sys/class/virtio-ports/*; do
        [ "$(<"$dir/name")" = "test.$1" ] && echo "/dev/${dir##*/}" && return
    done
}
exec >"$(port out)" 2>&1 </dev/null
systemctl is-system-running --wait >/run/boot-state
[ "$(</run/boot-state)" = running ] || systemctl list-units --failed --no-legend --plain --no-pager
STATUS_PORT=$(port status) python3 -u /mnt/host/main.py
code=$?
# The scenarios say it themselves where the machine is to be started again.
echo "$code" >"$(port status)"
systemctl poweroff --force --force
