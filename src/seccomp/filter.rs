//! The system calls that Landlock leaves open. They are refused with EPERM, so that a program sees a normal error.
//!
//! This is a list of refused calls, not of allowed ones, because any service that runs under systemd must run here, and
//! any agent. The refused calls bypass the other rules (the group from which the kernel picks a listener, other
//! processes of the same user, user namespaces), or change the machine (modules, mounts, clocks), which no service
//! needs.

use std::collections::BTreeMap;

use libc::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::dispatch::{self, Answer};

/// The allowed network access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everything that its user may do.
    Open,
    /// Landlock restricts TCP connections; ways around it are refused.
    Restricted,
    /// Only Unix sockets.
    None,
}

/// The parameters of the filter.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// The network access.
    pub network: Network,
    /// True if the process has the supervisor's user and network namespace: then it could join the group of listeners.
    pub shares_user: bool,
}

/// Calls that are refused with any arguments.
const REFUSED: &[i64] = &[
    // io_uring performs socket options and file operations that no seccomp filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Access to memory and descriptors of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // Kernel interfaces with a history of local root exploits, or for watching other processes.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // All processes of a user share its keyrings, across all sandboxes.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Other views of the file system, and access to files by handle, which bypasses path rules.
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    // Changes of the machine itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Calls that change the priority or limits of another process, with the index of the argument that names it; 0 means
/// the caller itself.
///
/// `sched_setaffinity` is not in the list: programs use it for their own threads, and the filter cannot see whose
/// thread an id belongs to. The supervisor resets its own affinity.
const PROCESS_CONTROL_CALLS: &[(i64, u8)] = &[
    (libc::SYS_prlimit64, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_ioprio_set, 1),
];

/// The value of `which` in ioprio_set(2) for all processes of a user.
const IOPRIO_WHO_USER: u64 = 3;

const SO_REUSEPORT: u64 = 15;
/// Options that attach or detach the program that picks the listener of a new connection: classic BPF, eBPF, detach.
const SO_REUSEPORT_PROGRAMS: [u64; 3] = [51, 52, 68];
/// Options that shut other users of a socket out, by level and number.
const EXCLUSIVE_OPTIONS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    (libc::IPPROTO_TCP, libc::TCP_MD5SIG),
    (libc::IPPROTO_TCP, TCP_MD5SIG_EXT),
    (libc::IPPROTO_TCP, libc::TCP_REPAIR),
    (libc::IPPROTO_TCP, TCP_AO_ADD_KEY),
    (libc::IPPROTO_TCP, TCP_AO_DEL_KEY),
    (libc::IPPROTO_TCP, TCP_AO_INFO),
];
const SO_BINDTOIFINDEX: i32 = 62;
const IPV6_MINHOPCOUNT: i32 = 73;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_AO_ADD_KEY: i32 = 38;
const TCP_AO_DEL_KEY: i32 = 39;
const TCP_AO_INFO: i32 = 40;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const IPPROTO_SCTP: u64 = 132;
const IPPROTO_MPTCP: u64 = 262;
const SOCK_TYPE_MASK: u64 = 0xf;
const SOCK_SEQPACKET: u64 = 5;
const SOCK_DCCP: u64 = 6;

impl Filter {
    /// Compiles the filter for the kernel.
    ///
    /// # Errors
    /// If this machine's architecture is not supported.
    pub fn program(self) -> Result<Vec<sock_filter>, seccompiler::Error> {
        let rules = self.rules()?;
        let number = |call: &i64| u32::try_from(*call).unwrap_or(u32::MAX);
        let mut answers: BTreeMap<u32, Answer> = REFUSED.iter().map(|call| (number(call), Answer::Refused)).collect();
        answers.extend(rules.keys().map(|call| (number(call), Answer::ByArguments)));
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            std::env::consts::ARCH.try_into()?,
        )?;
        let arguments: BpfProgram = filter.try_into()?;
        let step =
            |step: seccompiler::sock_filter| sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k };
        Ok(dispatch::program(&answers, arguments.into_iter().map(step).collect()))
    }

    /// The calls whose arguments decide.
    fn rules(self) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut refuse = |call: i64, conditions: Vec<SeccompCondition>| -> Result<(), seccompiler::Error> {
            rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
            Ok(())
        };
        for (call, argument) in PROCESS_CONTROL_CALLS {
            refuse(*call, vec![is_not(*argument, 0)?])?;
        }
        // PRIO_USER affects all processes of the user, which may include the supervisor.
        refuse(libc::SYS_setpriority, vec![is(0, libc::PRIO_USER as u64)?])?;
        refuse(libc::SYS_ioprio_set, vec![is(0, IOPRIO_WHO_USER)?])?;
        for call in [libc::SYS_unshare, libc::SYS_clone] {
            refuse(call, vec![has(0, CLONE_NEWUSER, CLONE_NEWUSER)?])?;
        }
        for option in SO_REUSEPORT_PROGRAMS {
            refuse(libc::SYS_setsockopt, vec![is(1, libc::SOL_SOCKET as u64)?, is(2, option)?])?;
        }
        for (level, option) in EXCLUSIVE_OPTIONS {
            let (level, option) = (u64::from(level.unsigned_abs()), u64::from(option.unsigned_abs()));
            refuse(libc::SYS_setsockopt, vec![is(1, level)?, is(2, option)?])?;
        }
        if self.shares_user {
            refuse(libc::SYS_setsockopt, vec![is(1, libc::SOL_SOCKET as u64)?, is(2, SO_REUSEPORT)?])?;
        }
        match self.network {
            Network::Open => {}
            Network::None => refuse(libc::SYS_socket, vec![is_not(0, libc::AF_UNIX as u64)?])?,
            Network::Restricted => {
                // Other families may carry TCP past Landlock (as SMC does).
                let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
                let others = families.iter().map(|family| is_not(0, *family as u64)).collect::<Result<_, _>>()?;
                refuse(libc::SYS_socket, others)?;
                for protocol in [IPPROTO_MPTCP, IPPROTO_SCTP] {
                    refuse(libc::SYS_socket, vec![is(2, protocol)?])?;
                }
                for family in [libc::AF_INET, libc::AF_INET6] {
                    for kind in [SOCK_SEQPACKET, SOCK_DCCP] {
                        refuse(libc::SYS_socket, vec![is(0, family as u64)?, has(1, SOCK_TYPE_MASK, kind)?])?;
                    }
                }
                // MSG_FASTOPEN connects without connect(2).
                let fast_open = libc::MSG_FASTOPEN as u64;
                for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
                    refuse(call, vec![has(flags, fast_open, fast_open)?])?;
                }
            }
        }
        Ok(rules)
    }
}

// The kernel reads these arguments as 32 bits, so the upper half must be ignored.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)?)
}

fn has(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?)
}
