//! The first part of the seccomp filter: finds the rule for a system call by binary search, instead of testing rule by
//! rule.
//!
//! When a filter is installed, the kernel runs it once for every system call, to learn which ones it always allows.
//! With a list of 300 steps this took 180 microseconds of each start; with binary search it takes a few.

use std::collections::BTreeMap;

use libc::sock_filter;

/// The decision about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Refused with EPERM, with any arguments.
    Refused,
    /// The rules in the second part check its arguments.
    ByArguments,
}

/// The kernel's number of this architecture. Other architectures have other system call numbers.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// The first system call number of the x32 ABI, which the list of x86-64 numbers does not cover.
const X32_FIRST: u32 = 0x4000_0000;

/// Maximum number of calls that are compared one by one.
const LEAF_CALLS: usize = 3;

enum Step {
    Filter(sock_filter),
    ToArguments,
}

/// The whole filter. Calls that are not in `answers` are allowed; `arguments` is the second part.
///
/// Three kinds of calls fail with ENOSYS before all rules: those of another architecture, those of x32, and clone3,
/// whose flags are behind a pointer that a filter cannot read. The C library falls back to clone.
pub(super) fn program(answers: &BTreeMap<u32, Answer>, arguments: Vec<sock_filter>) -> Vec<sock_filter> {
    let mut steps = vec![
        Step::Filter(load(ARCHITECTURE_AT)),
        jump(libc::BPF_JEQ, ARCHITECTURE, 0, 3),
        Step::Filter(load(NUMBER_AT)),
        jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 1, 0),
        jump(libc::BPF_JGE, X32_FIRST, 0, 1),
        error(libc::ENOSYS),
    ];
    let answers: Vec<(u32, Answer)> = answers.iter().map(|(call, answer)| (*call, *answer)).collect();
    steps.extend(halve(&answers));
    let end = steps.len();
    let place = |(at, step)| match step {
        Step::Filter(filter) => filter,
        Step::ToArguments => jump_always((end - at - 1) as u32),
    };
    steps.into_iter().enumerate().map(place).chain(arguments).collect()
}

/// Steps that end with an answer for every call; `answers` is sorted by call.
fn halve(answers: &[(u32, Answer)]) -> Vec<Step> {
    if answers.len() > LEAF_CALLS {
        let (below, above) = answers.split_at(answers.len() / 2);
        let below = halve(below);
        // A conditional jump reaches at most 255 steps.
        let mut steps = vec![jump(libc::BPF_JGE, above[0].0, 0, 1), Step::Filter(jump_always(below.len() as u32))];
        steps.extend(below);
        steps.extend(halve(above));
        return steps;
    }
    let mut steps = Vec::with_capacity(2 * answers.len() + 1);
    for (call, answer) in answers {
        steps.push(jump(libc::BPF_JEQ, *call, 0, 1));
        steps.push(match answer {
            Answer::Refused => error(libc::EPERM),
            Answer::ByArguments => Step::ToArguments,
        });
    }
    steps.push(Step::Filter(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)));
    steps
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump_always(steps: u32) -> sock_filter {
    step(libc::BPF_JMP | libc::BPF_JA, steps)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> Step {
    Step::Filter(sock_filter { jt, jf, ..step(libc::BPF_JMP | test | libc::BPF_K, k) })
}

fn error(errno: i32) -> Step {
    Step::Filter(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter like the kernel, for the kinds of steps that are used here.
    fn run(program: &[sock_filter], architecture: u32, number: u32) -> (u32, usize) {
        let (mut at, mut value, mut count) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            (at, count) = (at + 1, count + 1);
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                0x20 => value = if k == NUMBER_AT { number } else { architecture },
                0x15 => branch(value == k),
                0x35 => branch(value >= k),
                0x05 => at += k as usize,
                0x06 => return (k, count),
                other => panic!("step {other:#x}"),
            }
        }
    }

    #[test]
    fn every_call_gets_its_answer_in_a_few_steps() {
        const BY_ARGUMENTS: u32 = 77;
        let answer = |call: u32| if call.is_multiple_of(7) { Answer::Refused } else { Answer::ByArguments };
        for size in [0, 1, 2, 3, 4, 5, 60, 200] {
            let answers: BTreeMap<u32, Answer> = (0..size).map(|n| (n * 2 + 1, answer(n * 2 + 1))).collect();
            let program = program(&answers, vec![step(libc::BPF_RET, BY_ARGUMENTS)]);
            for call in 0..430 {
                let (got, steps) = run(&program, ARCHITECTURE, call);
                let expected = match answers.get(&call) {
                    None => libc::SECCOMP_RET_ALLOW,
                    Some(Answer::Refused) => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
                    Some(Answer::ByArguments) => BY_ARGUMENTS,
                };
                assert_eq!(got, expected, "call {call} of {size}");
                assert!(steps < 32, "call {call} of {size} takes {steps} steps");
            }
            let none = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
            assert_eq!(run(&program, 0x4000_0003, 1).0, none, "i386");
            assert_eq!(run(&program, ARCHITECTURE, X32_FIRST + 1).0, none, "x32");
            assert_eq!(run(&program, ARCHITECTURE, libc::SYS_clone3 as u32).0, none, "clone3");
        }
    }
}
