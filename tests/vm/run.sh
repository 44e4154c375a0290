#!/usr/bin/env bash
# Tests rei under a real systemd: boots a small virtual machine, installs rei and its unit there, and runs scenarios. Each scenario
# is printed with its observations. The disk exists as long as the run, so a scenario can cut the power and continue after the next
# boot.
#
#   run.sh [--suite SUITE] [--only WORD] [--profile debug|release]
#
# SUITE is Debian's: trixie (systemd 257, the default) or bookworm (252, whose descriptor store rei does not use).
# WORD, a regular expression, chooses scenarios by their names. Images are kept in ~/.cache/rei-vm.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

HERE=$(dirname "$(realpath "$0")")
BOOT_MAX=2400  # the time limit of one boot in seconds, for an emulated machine on busy processors
BOOTS_MAX=40  # more than the scenarios have
MEMORY_MIB=1536
suite=trixie only='' profile=debug

die() { echo "run.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --suite) suite=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        --profile) profile=$2; shift 2 ;;
        *) die "unknown: $1" ;;
    esac
done
[ "$(uname -m)" = x86_64 ] || die "this works only on x86_64 machines"

image=${XDG_CACHE_HOME:-$HOME/.cache}/rei-vm/$suite
"$HERE/image.sh" "$suite" "$image"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/share"
cp "$HERE"/*.sh "$HERE"/*.py "$work/share"
programs=$HERE/../../target/$(uname -m)-unknown-linux-gnu/$profile
for program in rei examples/served; do
    strip -o "$work/share/${program##*/}" "$programs/$program" || die "build first: cargo build --bins --example served"
done
echo "$only" >"$work/share/only"
cp --sparse=always "$image/disk" "$work/disk"

# KVM only on request: some hosts have /dev/kvm, but no machine boots with it.
accel=(-accel tcg,thread=multi -cpu max)
append="console=ttyS0 quiet panic=-1 random.trust_cpu=on selinux=0 apparmor=0 audit=0"
append+=" nokaslr mitigations=off tsc=reliable nowatchdog cryptomgr.notests"
if [ -w /dev/kvm ] && [ -n "${REI_VM_KVM:-}" ]; then
    accel=(-accel kvm -cpu host)
fi

boot() {
    rm -f "$work/status" "$work/console"
    # shellcheck disable=SC2054 # commas are qemu's
    local qemu=(qemu-system-x86_64 -no-user-config -nodefaults -display none -no-reboot -machine pc "${accel[@]}"
        -smp 2 -m "$MEMORY_MIB" -kernel "$image/kernel" -initrd "$image/initrd" -append "$append"
        -drive "file=$work/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk
        -serial "file:$work/console" -device virtio-serial-pci
        -chardev "file,id=out,path=$work/out" -device virtserialport,chardev=out,name=test.out
        -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=test.status
        -device virtio-9p-pci,fsdev=share,mount_tag=share
        -fsdev "local,id=share,path=$work/share,security_model=none,multidevs=remap,readonly=on")
    : >"$work/out"
    tail -n +1 -f "$work/out" & local tail=$!
    # The machine ends with this script, even if the script is killed.
    timeout -k 5 "$BOOT_MAX" setpriv --pdeathsig TERM "${qemu[@]}" </dev/null || true
    sleep 1 # so that tail prints the last lines
    kill "$tail"
    wait "$tail" 2>/dev/null || true
}

for ((boots = 0; boots < BOOTS_MAX; boots++)); do
    boot
    status=$(cat "$work/status" 2>/dev/null || true)
    [ "$status" = again ] && continue
    [ -n "$status" ] && exit "$status"
    tail -n 20 "$work/console" >&2
    die "the machine ended without a status"
done
die "more than $BOOTS_MAX boots"
