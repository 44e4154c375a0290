//! Classic BPF programs that choose the group member for each new connection. Pure: they turn a routing into
//! instructions.
//!
//! The result of the program is the index of a member. If the index does not exist, the kernel distributes connections
//! over *all* members by a hash, so every program must return an existing index. Offset 0 is behind the transport
//! header; the network header begins at `NET`.

use libc::sock_filter;

use super::slot::{Role, Routing, Slot, Taps};

/// A classic BPF program.
pub(super) type Program = Vec<sock_filter>;

/// Offset of the network header.
const NET: u32 = libc::SKF_NET_OFF as u32;
/// Offset of a random number from the kernel.
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;

// Load a word, half-word or byte; return; jump; arithmetic. (BPF_LD, BPF_W and BPF_K are 0.)
const LD_W: u16 = libc::BPF_ABS as u16;
const LD_H: u16 = (libc::BPF_H | libc::BPF_ABS) as u16;
const LD_B: u16 = (libc::BPF_B | libc::BPF_ABS) as u16;
const RET: u16 = libc::BPF_RET as u16;
const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ) as u16;
const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE) as u16;
const RSH: u16 = (libc::BPF_ALU | libc::BPF_RSH) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND) as u16;
const XOR_X: u16 = (libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X) as u16;
const TAX: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The program for a routing. For each connection, one random number decides about the slot and a second one about the
/// tap of that slot. `index` gives the index of each member.
pub(super) fn route(routing: Routing, taps: Taps, index: impl Fn(Role) -> u32) -> Program {
    let into = |slot| {
        // The same rule as for slots: a share of nothing or of everything needs no random number.
        match (Routing::Share { to: slot, share: taps.of(slot) }).plain() {
            Routing::All(tapped) if tapped == slot => vec![op(RET, index(Role::Tap(slot)))],
            Routing::All(_) => vec![op(RET, index(Role::Slot(slot)))],
            Routing::Share { share, .. } => vec![
                op(LD_W, RANDOM),
                jump(JGE, Routing::threshold(share), 1, 0),
                op(RET, index(Role::Tap(slot))),
                op(RET, index(Role::Slot(slot))),
            ],
        }
    };
    let (to, share) = match routing.plain() {
        Routing::All(slot) => return into(slot),
        Routing::Share { to, share } => (to, share),
    };
    let first = into(to);
    // A program for one slot has at most four instructions.
    let skip = u8::try_from(first.len()).unwrap_or(u8::MAX);
    let mut program = vec![op(LD_W, RANDOM), jump(JGE, Routing::threshold(share), skip, 0)];
    program.extend(first);
    program.extend(into(to.other()));
    program
}

/// The differentiated-services field (DSCP) that marks the supervisor's own connections for a slot: code points 7 and
/// 11, of the pool for local use (RFC 2474, section 6).
pub(super) const fn service_field(slot: Slot) -> u8 {
    match slot {
        Slot::A => 7 << 2,
        Slot::B => 11 << 2,
    }
}

/// The program that lets connections from this machine choose a slot by their DSCP, and routes all others by `rest`. A
/// connection is from this machine if its source address equals its destination address; no other host can have that
/// address.
pub(super) fn choose(v6: bool, index: impl Fn(Role) -> u32, rest: Program) -> Program {
    let index = |slot| index(Role::Slot(slot));
    let (first, last) = (Slot::A, Slot::B);
    let (field_a, field_b) = (u32::from(service_field(first)), u32::from(service_field(last)));
    let same =
        |source: u32, destination: u32| [op(LD_W, NET + source), op(TAX, 0), op(LD_W, NET + destination), op(XOR_X, 0)];
    let mut program = Program::new();
    if v6 {
        // Check the IP version, then compare the host halves and the network halves of the addresses, then the field.
        program.extend([op(LD_B, NET), op(RSH, 4), jump(JEQ, 6, 0, 17)]);
        program.extend(same(20, 36));
        program.push(jump(JEQ, 0, 0, 12));
        program.extend(same(8, 24));
        program.push(jump(JEQ, 0, 0, 7));
        program.extend([op(LD_H, NET), op(RSH, 4)]);
    } else {
        program.extend(same(12, 16));
        program.push(jump(JEQ, 0, 0, 6));
        program.push(op(LD_B, NET + 1));
    }
    program.extend([
        op(AND, 0xfc),
        jump(JEQ, field_a, 0, 1),
        op(RET, index(first)),
        jump(JEQ, field_b, 0, 1),
        op(RET, index(last)),
    ]);
    program.extend(rest);
    program
}

/// The program that sends connections from one source port to one index, and all others through `rest`.
pub(super) fn probe(v6: bool, source_port: u16, index: u32, rest: Program) -> Program {
    let port = u32::from(source_port);
    let mut program = if v6 {
        vec![op(LD_B, NET), op(RSH, 4), jump(JEQ, 6, 0, 3), op(LD_H, NET + 40), jump(JEQ, port, 0, 1), op(RET, index)]
    } else {
        vec![op(LD_H, NET + 20), jump(JEQ, port, 0, 1), op(RET, index)]
    };
    program.extend(rest);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(role: Role) -> u32 {
        match role {
            Role::Slot(Slot::A) => 7,
            Role::Slot(Slot::B) => 9,
            Role::Tap(Slot::A) => 17,
            Role::Tap(Slot::B) => 19,
            Role::Guard => panic!("the program never chooses the guard"),
        }
    }

    fn route(routing: Routing, index: impl Fn(Role) -> u32) -> Program {
        super::route(routing, Taps::NONE, index)
    }

    /// Runs a program like the kernel, on an IP header and a random number.
    fn run(program: &[sock_filter], header: &[u8], random: u32) -> u32 {
        run_with(program, header, &mut || random)
    }

    fn run_with(program: &[sock_filter], header: &[u8], random: &mut dyn FnMut() -> u32) -> u32 {
        let (mut at, mut a, mut x) = (0_usize, 0_u32, 0_u32);
        let byte = |k: u32, n: u32| u32::from(header[(k.wrapping_sub(NET) + n) as usize]);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                RET => return k,
                LD_W if k == RANDOM => a = random(),
                LD_W => a = (0..4).fold(0, |word, n| word << 8 | byte(k, n)),
                LD_H => a = byte(k, 0) << 8 | byte(k, 1),
                LD_B => a = byte(k, 0),
                RSH => a >>= k,
                AND => a &= k,
                XOR_X => a ^= x,
                TAX => x = a,
                JEQ => at += usize::from(if a == k { jt } else { jf }),
                JGE => at += usize::from(if a >= k { jt } else { jf }),
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn v4(source: u32, port: u16) -> Vec<u8> {
        let mut header = vec![0; 24];
        header[0] = 0x45;
        header[12..16].copy_from_slice(&source.to_be_bytes());
        header[20..22].copy_from_slice(&port.to_be_bytes());
        header
    }

    fn v6(source: u128, port: u16) -> Vec<u8> {
        let mut header = vec![0; 44];
        header[0] = 0x60;
        header[8..24].copy_from_slice(&source.to_be_bytes());
        header[40..42].copy_from_slice(&port.to_be_bytes());
        header
    }

    #[test]
    fn all_is_one_instruction() {
        let program = route(Routing::All(Slot::B), index);
        assert_eq!((program.len(), run(&program, &[], 0)), (1, 9));
    }

    #[test]
    fn one_draw_decides_at_the_threshold() {
        let program = route(Routing::Share { to: Slot::B, share: 0.25 }, index);
        for (draw, member) in [(0, 9), ((1 << 30) - 1, 9), (1 << 30, 7), (u32::MAX, 7)] {
            assert_eq!(run(&program, &[], draw), member, "{draw}");
        }
    }

    /// Where a routing sends this many connections, drawn by a generator of random numbers.
    fn drawn(routing: Routing, taps: Taps, count: u32) -> std::collections::BTreeMap<u32, u32> {
        let program = super::route(routing, taps, index);
        let (mut counts, mut state) = (std::collections::BTreeMap::new(), 1_u64);
        let mut random = || {
            // SplitMix64: the kernel gives a new number at each load.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            u32::try_from((mixed ^ mixed >> 31) >> 32).unwrap()
        };
        for _ in 0..count {
            *counts.entry(run_with(&program, &[], &mut random)).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_share_of_each_slot_goes_through_its_tap() {
        let routing = Routing::Share { to: Slot::B, share: 0.25 };
        let counts = drawn(routing, Taps { a: 0.01, b: 0.5 }, 100_000);
        for (member, share) in [(7, 0.75 * 0.99), (17, 0.75 * 0.01), (9, 0.25 * 0.5), (19, 0.25 * 0.5)] {
            let share: f64 = share;
            let (expected, sigma) = (1e5 * share, (1e5 * share * (1.0 - share)).sqrt());
            let seen = f64::from(counts[&member]);
            assert!((seen - expected).abs() < 5.0 * sigma, "member {member}: {seen} of {expected}");
        }
        let all = drawn(Routing::All(Slot::A), Taps { a: 1.0, b: 1.0 }, 100);
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [(17, 100)]);
        for none in [Taps::NONE, Taps { a: f64::NAN, b: 1.0 }, Taps { a: -1.0, b: 1.0 }] {
            assert_eq!(drawn(Routing::All(Slot::A), none, 100).into_iter().collect::<Vec<_>>(), [(7, 100)]);
        }
    }

    #[test]
    fn own_connections_choose_and_others_do_not() {
        let rest = || route(Routing::All(Slot::A), |role| index(role) + 100);
        let four = |field: u8, source: u32, destination: u32| {
            let mut header = v4(source, 1);
            header[1] = field;
            header[16..20].copy_from_slice(&destination.to_be_bytes());
            run(&choose(false, index, rest()), &header, 0)
        };
        let six = |field: u8, source: u128, destination: u128| {
            let mut header = v6(source, 1);
            header[0] = 0x60 | field >> 4;
            header[1] = field << 4;
            header[24..40].copy_from_slice(&destination.to_be_bytes());
            run(&choose(true, index, rest()), &header, 0)
        };
        let (a, b) = (service_field(Slot::A), service_field(Slot::B));
        assert_eq!(
            [four(a, 9, 9), four(b, 9, 9), four(b | 3, 9, 9)],
            [7, 9, 9],
            "the two lowest bits (ECN) are ignored"
        );
        assert_eq!([four(0, 9, 9), four(a, 8, 9), four(b, 8, 9)], [107; 3]);
        assert_eq!([six(a, 1, 1), six(b, 1, 1)], [7, 9]);
        assert_eq!([six(0, 1, 1), six(b, 2, 1), six(b, 1 << 100 | 1, 1)], [107; 3]);
        let mut mapped = v4(9, 1);
        mapped.resize(44, 0);
        mapped[1] = b;
        assert_eq!(run(&choose(true, index, rest()), &mapped, 0), 107, "a version 4 client of a dual-stack listener");
    }

    #[test]
    fn a_probe_takes_its_own_port_alone() {
        let rest = || route(Routing::All(Slot::A), index);
        let four = probe(false, 4000, 2, rest());
        assert_eq!((run(&four, &v4(1, 4000), 0), run(&four, &v4(1, 4001), 0)), (2, 7));
        let six = probe(true, 4000, 2, rest());
        assert_eq!((run(&six, &v6(1, 4000), 0), run(&six, &v6(1, 4001), 0)), (2, 7));
        let mut mapped = v4(1, 4000);
        mapped.resize(44, 0);
        assert_eq!(run(&six, &mapped, 0), 7, "a version 4 client of a dual-stack listener is no probe");
    }
}
