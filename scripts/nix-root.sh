#!/usr/bin/env bash
# Runs a command in the root file system of another Debian suite, with the suite's Nix version:
# scripts/nix-root.sh SUITE USER COMMAND [ARG]...
#
# USER `root` uses the store directly, `tester` uses it through nix-daemon. The store is empty, the working directory is read-only,
# the network has only loopback, and all written files are lost afterwards. Needs root and mmdebstrap.
#
# The first use of a suite makes its root file system from Debian's packages (a minute, 300 MB), from the mirror of this machine's
# apt, below the cache directory. Remove it there to get a newer one.
set -euo pipefail

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rei-nix-roots
# The programs that the tests, Nix and its daemon call.
PACKAGES=nix-bin,binutils,git,busybox-static,e2fsprogs,iproute2,mount,passwd,procps,python3-minimal,libpython3-stdlib,strace,util-linux
# One user for each build that may run at the same time.
BUILD_USERS=8

fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 125; }

# Prints the mirror that apt uses for this machine's own release.
mirror() {
    apt-get indextargets --format '$(CREATED_BY) $(COMPONENT) $(REPO_URI)' | awk '$1 == "Packages" && $2 == "main" { print $3; exit }'
}

make_root() {
    local suite=$1 root=$2 number keep=() line
    while IFS= read -r line; do keep+=(--aptopt="$line"); done < <(apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-Valid-Until) ' || true)
    echo "making the root file system of $suite" >&2
    rm -rf --one-file-system "$root.new"
    mmdebstrap --mode=root --variant=essential --format=directory --include="$PACKAGES" "${keep[@]}" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        "$suite" "$root.new" "$(mirror)" >"$root.log" 2>&1 ||
        fail "cannot make the root file system of $suite: $(grep '^E:' "$root.log" | tail -n 1)" "read $root.log"
    chroot "$root.new" groupadd --system nixbld
    for number in $(seq $BUILD_USERS); do
        chroot "$root.new" useradd --system --no-user-group --gid nixbld --groups nixbld "nixbld$number"
    done
    chroot "$root.new" useradd --create-home --uid 1000 tester
    mkdir -p "$root.new/etc/nix" "$root.new/nix"
    # The shell is for the flakes of tests. It is static, because the sandbox has no other files of the root file system.
    printf '%s\n' 'sandbox = true' 'sandbox-fallback = false' 'sandbox-paths = /bin/sh=/bin/busybox' \
        'build-users-group = nixbld' 'substituters =' >"$root.new/etc/nix/nix.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root.new/etc/hosts"
    mv "$root.new" "$root"
}

# Runs as process 1 of new namespaces: mounts the root file system, enters it, and runs the command.
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
    # Without exec: the kernel ignores signals to process 1 that have no handler, and process 1 must reap orphans.
    "${env[@]}" "HOME=$([ "$user" = root ] && echo /root || echo "/home/$user")" "USER=$user" "${way[@]}" "$@" || code=$?
    exit $code
}

if [ "${1:-}" = --inside ]; then
    shift
    enter "$@"
fi
[ $# -ge 3 ] || fail "a suite, a user and a command are needed" "scripts/nix-root.sh sid tester nix --version"
[ "$(id -u)" = 0 ] || fail "only root can make root file systems" "run it with sudo"
suite=$1 user=$2
shift 2
mkdir -p "$CACHE/$suite.run"
exec 9>"$CACHE/$suite.lock"
flock 9
[ -d "$CACHE/$suite" ] || make_root "$suite" "$CACHE/$suite"
exec 9>&-
exec unshare --mount --pid --net --fork --kill-child "$0" --inside "$CACHE/$suite" "$user" "$@"
