//! What nearly every program may read, run and write. A profile takes what it needs of these lists.

/// Programs and libraries of the system.
pub const PROGRAMS: &[&str] =
    &["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/nix/store", "/run/current-system"];

/// Programs that are not of the system itself.
pub const OPTIONAL_PROGRAMS: &[&str] = &["/opt", "/run/wrappers"];

/// Name service, certificates, time zones, the loader's cache. Named one by one, as `/etc` holds secrets too.
pub const SYSTEM_FILES: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/static",
    "/etc/timezone",
    "/usr/lib/locale",
    "/usr/share/ca-certificates",
    "/usr/share/locale",
    "/usr/share/zoneinfo",
];

/// What programs read to size their heaps and thread pools. No process has a directory here: `/proc/PID` shows command
/// lines of others, and to root environments, so an operator whose service needs `/proc` names it in rei.toml.
pub const MACHINE_FACTS: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Devices that hold nothing of anybody.
pub const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// Sockets of name services. A kernel with rules for Unix sockets closes them if no rule allows them.
pub const NAME_SERVICES: &[&str] = &["/run/nscd", "/run/systemd/resolve", "/run/systemd/userdb"];
