#!/bin/sh
# Installs what is missing of: nix git python runit s6 wrk qemu mmdebstrap. From Debian's packages, as root or with sudo;
# elsewhere it says what to install. What is there already costs nothing.
set -eu

# The programs that show that a thing is there, and the Debian packages that bring it.
programs() {
    case $1 in
        nix) echo nix-store nix-instantiate nix-env ;;
        git) echo git ;;
        python) echo python3 ;;
        runit) echo runsv ;;
        s6) echo s6-supervise ;;
        wrk) echo wrk ;;
        qemu) echo qemu-system-x86_64 ;;
        mmdebstrap) echo mmdebstrap xz zstd ;;
        *) echo "setup.sh: unknown: $1" >&2; exit 2 ;;
    esac
}

packages() {
    case $1 in
        nix) echo nix-bin nix-setup-systemd ;; # the second has the users that builds run as
        python) echo python3 python3-venv ;;
        qemu) echo qemu-system-x86 ;;
        mmdebstrap) echo mmdebstrap xz-utils zstd ;;
        *) echo "$1" ;;
    esac
}

is_there() {
    for program in $(programs "$1"); do
        command -v "$program" >/dev/null 2>&1 || return 1
    done
    # Debian's Python comes without what makes environments.
    [ "$1" != python ] || python3 -c 'import ensurepip, venv' 2>/dev/null
}

missing=
for thing in "$@"; do
    is_there "$thing" || missing="$missing $thing"
done
[ -n "$missing" ] || exit 0

wanted=$(for thing in $missing; do packages "$thing"; done | tr '\n' ' ')
if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: missing:$missing" >&2
    echo "hint: install them with your system's packages; Nix: https://nixos.org/download" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "error: missing:$missing" >&2
    echo "hint: as root: apt-get install $wanted" >&2
    exit 1
fi

echo "installing $wanted" >&2
# The list may be old or absent, as in a new container.
$as_root apt-get update -qq || echo "warning: the package lists are as they were" >&2
# shellcheck disable=SC2086 # several words are meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
for thing in $missing; do
    is_there "$thing" || { echo "error: $thing is installed and cannot be found" >&2; exit 1; }
done
