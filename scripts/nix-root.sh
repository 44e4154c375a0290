#!/usr/bin/env bash
# Runs a command in a Debian of another suite, and so beside its Nix: scripts/nix-root.sh SUITE USER COMMAND [ARG]...
#
# USER `root` reaches the store by itself, `tester` through nix-daemon. The store is empty, the working directory is there
# read-only, the network is loopback alone, and all that is written is gone afterwards. Needs root and mmdebstrap.
#
# The first use of a suite makes its root from Debian's packages (a minute, 300 MB), from the mirror of this machine's apt,
# below the cache directory. Remove it there to have a newer one.
set -euo pipefail

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rei-nix-roots
# What the tests call, and what Nix and its daemon need.
PACKAGES=nix-bin,binutils,git,busybox-static,e2fsprogs,iproute2,mount,passwd,procps,python3-minimal,libpython3-stdlib,strace,util-linux
# As many as builds may run at a time.
BUILD_USERS=8

fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 125; }

# The mirror that apt has for this machine's own release.
mirror() {
    apt-get indextargets --format '$(CREATED_BY) $(COMPONENT) $(REPO_URI)' | awk '$1 == "Packages" && $2 == "main" { print $3; exit }'
}

make_root() {
    local suite=$1 root=$2 number keep=() line
    while IFS= read -r line; do keep+=(--aptopt="$line"); done < <(apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-Valid-Until) ' || true)
    echo "making the root of $suite" >&2
    rm -rf --one-file-system "$root.new"
    mmdebstrap --mode=root --variant=essential --format=directory --include="$PACKAGES" "${keep[@]}" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        "$suite" "$root.new" "$(mirror)" >"$root.log" 2>&1 ||
        fail "no root of $suite could be made: $(grep '^E:' "$root.log" | tail -n 1)" "read $root.log"
    chroot "$root.new" groupadd --system nixbld
    for number in $(seq $BUILD_USERS); do
        chroot "$root.new" useradd --system --no-user-group --gid nixbld --groups nixbld "nixbld$number"
    done
    chroot "$root.new" useradd --create-home --uid 1000 tester
    mkdir -p "$root.new/etc/nix" "$root.new/nix"
    # The shell is for the flakes of tests. It is static, as the root's other programs are not in the sandbox.
    printf '%s\n' 'sandbox = true' 'sandbox-fallback = false' 'sandbox-paths = /bin/sh=/bin/busybox' \
        'build-users-group = nixbld' 'substituters =' >"$root.new/etc/nix/nix.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root.new/etc/hosts"
    mv "$root.new" "$root"
}

# As process 1 of namespaces of its own: lays the root out, enters it, and runs the command.
enter() {
    local base=$1 user=$2 here=$PWD root way=() code=0
    shift 2
    root=$base.run/root
    mount --make-rprivate /
    mount -t tmpfs run "$base.run"
    mkdir "$root" "$base.run/written" "$base.run/work"
    mount -t overlay -o "lowerdir=$base,upperdir=$base.run/written,workdir=$base.run/work" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=755 tmpfs "$root/nix"
    mkdir -p "$root$here"
    mount --bind "$here" "$root$here"
    mount -o remount,bind,ro "$root$here"
    mkdir "$root/run/outside"
    cd "$root"
    pivot_root . run/outside
    umount -l /run/outside
    cd "$here"
    ip link set lo up
    PATH=/usr/sbin:/usr/bin:/sbin:/bin
    local env=(env -i "PATH=$PATH" LANG=C.UTF-8)
    if [ "$user" != root ]; then
        "${env[@]}" HOME=/root nix-daemon >/run/nix-daemon.log 2>&1 &
        for _ in $(seq 200); do [ -S /nix/var/nix/daemon-socket/socket ] && break; sleep 0.05; done
        way=(NIX_REMOTE=daemon setpriv --reuid "$user" --regid "$user" --init-groups)
    fi
    # Not by exec: process 1 is deaf to signals that it has not asked for, and buries orphans.
    "${env[@]}" "HOME=$([ "$user" = root ] && echo /root || echo "/home/$user")" "USER=$user" "${way[@]}" "$@" || code=$?
    exit $code
}

if [ "${1:-}" = --inside ]; then
    shift
    enter "$@"
fi
[ $# -ge 3 ] || fail "a suite, a user and a command are wanted" "scripts/nix-root.sh sid tester nix --version"
[ "$(id -u)" = 0 ] || fail "only root can make roots" "run it with sudo"
suite=$1 user=$2
shift 2
mkdir -p "$CACHE/$suite.run"
exec 9>"$CACHE/$suite.lock"
flock 9
[ -d "$CACHE/$suite" ] || make_root "$suite" "$CACHE/$suite"
exec 9>&-
exec unshare --mount --pid --net --fork --kill-child "$0" --inside "$CACHE/$suite" "$user" "$@"
