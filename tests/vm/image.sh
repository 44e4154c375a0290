#!/usr/bin/env bash
# Builds the virtual machine of the tests: image.sh SUITE DIR writes `kernel`, `initrd` and `disk` into DIR, unless they exist.
# The machine is Debian of that suite with its stock kernel, systemd as process 1, D-Bus, a sandboxing Nix daemon, git and Python.
# After its boot it runs guest.sh from the share. Needs root, mmdebstrap, and an apt that reaches a Debian archive.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,kmod,procps,util-linux,busybox-static,ca-certificates
PACKAGES+=,git,nix-bin,nix-setup-systemd,python3,iproute2,passwd
DISK_SIZE=6G # sparse: it uses only the space of its files
# The modules that the machine boots from.
BOOT_MODULES="virtio_pci virtio_blk ext4 crc32c_generic virtio_console 9pnet_virtio 9p"

die() { echo "image.sh: $*" >&2; exit 1; }

# The archive that the host's own apt uses.
archive() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null |
        grep -v security | head -n 1
}

make_root() {
    local suite=$1 root=$2 uri option options=()
    uri=$(archive)
    [ -n "$uri" ] || die "apt has no Debian archive among its sources (apt-get update?)"
    # The host's own options, for example proxies.
    while read -r option; do
        options+=(--aptopt="$option")
    done < <(apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' || true)
    mmdebstrap --quiet --mode=root --variant=minbase --include="$PACKAGES" \
        ${options[@]+"${options[@]}"} --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='chroot "$1" sh -c "cd /boot && apt-get download \
            \$(apt-cache depends linux-image-amd64 | sed -n \"s/.*Depends: //p\" | grep -m1 ^linux-image-)"' \
        "$suite" "$root" "deb $uri $suite main" </dev/null
}

# Configures the machine: it starts one service when the boot is complete. Units that only cost time are masked.
configure() {
    local root=$1 etc=$1/etc/systemd unit generator
    echo vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost vm\n::1 localhost vm\n' >"$root/etc/hosts"
    rm -f "$root"/etc/{fstab,resolv.conf,modules} "$root"/etc/modules-load.d/*
    chroot "$root" systemd-machine-id-setup >/dev/null 2>&1
    cat >"$root/etc/nix/nix.conf" <<'CONF'
sandbox = true
substituters =
build-users-group = nixbld
CONF
    mkdir -p "$root/mnt/host" "$etc"/{journald.conf.d,system-generators,system/multi-user.target.wants}
    cat >"$etc/system/mnt-host.mount" <<'UNIT'
[Mount]
What=share
Where=/mnt/host
Type=9p
Options=trans=virtio,version=9p2000.L,msize=512000,cache=mmap,ro
[Install]
WantedBy=local-fs.target
UNIT
    cat >"$etc/system/vm-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=exec
ExecStart=/mnt/host/guest.sh
WorkingDirectory=/root
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
TasksMax=infinity
OOMPolicy=continue
[Install]
WantedBy=multi-user.target
UNIT
    printf '[Journal]\nStorage=volatile\n' >"$etc/journald.conf.d/test.conf"
    chroot "$root" systemctl --quiet set-default multi-user.target
    chroot "$root" systemctl --quiet enable vm-test.service mnt-host.mount nix-daemon.socket
    chroot "$root" systemctl --quiet disable nix-daemon.service
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer systemd-tmpfiles-clean.timer systemd-firstboot.service systemd-repart.service systemd-pstore.service \
        systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-random-seed.service systemd-update-utmp.service \
        systemd-update-utmp-runlevel.service systemd-journal-flush.service systemd-machine-id-commit.service \
        systemd-sysusers.service systemd-logind.service systemd-ask-password-console.path systemd-ask-password-wall.path \
        getty.target getty-static.service dev-hugepages.mount sys-kernel-config.mount sys-kernel-debug.mount \
        sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
        ln -sf /dev/null "$etc/system/$unit"
    done
    for generator in cryptsetup veritysetup integritysetup getty gpt-auto hibernate-resume rc-local bless-boot \
        system-update; do
        ln -sf /dev/null "$etc/system-generators/systemd-$generator-generator"
    done
}

# Adds the modules of the unpacked kernel package that the machine can use, and prints the kernel's version.
add_modules() {
    local root=$1 kernel=$2 version from to dir
    version=$(basename "$kernel"/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    from=$kernel/usr/lib/modules/$version
    [ -d "$from" ] || from=$kernel/lib/modules/$version
    to=$root/usr/lib/modules/$version
    mkdir -p "$to/kernel"
    cp "$from"/modules.{builtin*,order} "$to"
    for dir in arch crypto fs lib mm net drivers/block drivers/char drivers/virtio; do
        [ ! -d "$from/kernel/$dir" ] || { mkdir -p "$to/kernel/$dir" && cp -r "$from/kernel/$dir/." "$to/kernel/$dir"; }
    done
    chroot "$root" depmod "$version"
    echo "$version"
}

# Unpacks the kernel if possible: on an emulated processor the unpacking would take a third of the boot.
unpack_kernel() {
    local from=$1 to=$2 start length tool
    field() { od -An -v -j "$(($1))" -N "$2" "-t$3$2" "$from" | tr -d ' \n'; }
    # setup_sects, payload_offset and payload_length of the Linux boot protocol
    start=$((($(field 0x1f1 1 u) + 1) * 512 + $(field 0x248 4 u)))
    length=$(field 0x24c 4 u)
    case $(field $start 1 x)$(field $((start + 1)) 1 x) in
        fd37) tool='xz -dc --single-stream' ;;
        28b5) tool='zstd -dcq' ;;
        1f8b) tool='gzip -dc' ;;
        *) tool=false ;;
    esac
    # The last 4 bytes of the payload are its unpacked size.
    tail -c +$((start + 1)) "$from" | head -c $((length - 4)) | $tool >"$to" 2>/dev/null || true
    [ "$(head -c 4 "$to" | tail -c 3)" = ELF ] || cp "$from" "$to"
}

# Makes the initial RAM disk, which starts systemd from the disk.
make_initrd() {
    local root=$1 version=$2 out=$3 tree=$1/tmp/initrd module path name order=()
    mkdir -p "$tree"/{bin,dev,proc,sys,root,modules}
    cp "$root/bin/busybox" "$tree/bin/busybox"
    for module in $BOOT_MODULES; do
        while read -r _ path _; do
            name=${path##*/} name=${name%%.ko*}
            [ ! -e "$tree/modules/$name" ] || continue
            case $path in
                *.xz) xz -dc "$root$path" ;;
                *.zst) zstd -dcq "$root$path" ;;
                *) cat "$root$path" ;;
            esac >"$tree/modules/$name"
            order+=("$name")
        done < <(chroot "$root" modprobe -S "$version" --show-depends "$module" 2>/dev/null | grep ^insmod)
    done
    cat >"$tree/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t devtmpfs dev /dev
for m in ${order[*]}; do \$b insmod /modules/\$m; done
n=0
until [ -b /dev/vda ] || [ \$n = 500 ]; do \$b usleep 10000; n=\$((n + 1)); done
\$b mount -t ext4 -o rw,noatime /dev/vda /root
\$b mount --move /dev /root/dev
exec \$b switch_root /root /sbin/init
INIT
    chmod 755 "$tree/init"
    chroot "$root" sh -c 'cd /tmp/initrd && find . | busybox cpio -o -H newc 2>/dev/null' >"$out"
    rm -rf "$tree"
}

build() {
    local suite=$1 dest=$2 tmp=$2.new version
    rm -rf --one-file-system "$tmp"
    mkdir -p "$tmp/image"
    chmod 755 "$tmp"
    make_root "$suite" "$tmp/root" >"$tmp/log" 2>&1 || { tail -n 30 "$tmp/log" >&2; die "mmdebstrap failed"; }
    dpkg-deb -x "$tmp"/root/boot/linux-image-*.deb "$tmp/kernel"
    rm "$tmp"/root/boot/linux-image-*.deb
    configure "$tmp/root"
    version=$(add_modules "$tmp/root" "$tmp/kernel")
    unpack_kernel "$tmp/kernel/boot/vmlinuz-$version" "$tmp/image/kernel"
    make_initrd "$tmp/root" "$version" "$tmp/image/initrd"
    mkfs.ext4 -q -F -m 0 -d "$tmp/root" "$tmp/image/disk" "$DISK_SIZE" >/dev/null
    rm -rf "$dest"
    mv "$tmp/image" "$dest"
    rm -rf --one-file-system "$tmp"
}

[ $# = 2 ] || die "usage: image.sh SUITE DIR"
[ ! -e "$2/disk" ] || exit 0
[ "$(id -u)" = 0 ] || die "only root can build the image"
build "$1" "$(realpath -m "$2")"
