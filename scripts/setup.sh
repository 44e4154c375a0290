#!/bin/sh
# Installs the missing ones of: nix git python runit s6 wrk qemu mmdebstrap. It uses Debian's packages, as root or with sudo. On
# other systems it says what to install. It does nothing for programs that are already installed.
set -eu

# The programs by which the script finds out if a name is installed. Below: the Debian packages that contain them.
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
    # Debian's Python comes without the modules that make virtual environments.
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
$as_root apt-get update -qq || echo "warning: the package lists could not be updated" >&2
# shellcheck disable=SC2086 # several words are meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
for thing in $missing; do
    is_there "$thing" || { echo "error: $thing was installed but cannot be found" >&2; exit 1; }
done
