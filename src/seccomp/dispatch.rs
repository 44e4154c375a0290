//! The front of the system call filter: finds a call's rule by halving, instead of asking rule by rule.
//!
//! When a filter is installed, the kernel runs it once for every system call that there is, to learn which ones it
//! always allows. A list of 300 steps made that 180 microseconds of each start; halving makes it a few.

use std::collections::BTreeMap;

use libc::sock_filter;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Refused whatever its arguments: EPERM.
    Refused,
    /// The rules behind the front look at its arguments.
    ByArguments,
}

/// As the kernel names the architecture of a call: others have other numbers for their calls.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// System call numbers from here up are those of the x32 ABI, which a list of x86-64 numbers does not know.
const X32_FIRST: u32 = 0x4000_0000;

/// As many calls are compared one by one.
const LEAF_CALLS: usize = 3;

enum Step {
    Filter(sock_filter),
    ToArguments,
}

/// The whole filter: calls that are not in `answers` are allowed, `arguments` is for those that must be looked at.
///
/// Before all rules, three kinds of calls do not exist (ENOSYS): those of another architecture, those of x32, and
/// clone3, which hides its flags behind a pointer; the C library falls back to clone.
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
        Step::ToArguments => always((end - at - 1) as u32),
    };
    steps.into_iter().enumerate().map(place).chain(arguments).collect()
}

/// Steps that end with an answer for every call; `answers` is sorted by call.
fn halve(answers: &[(u32, Answer)]) -> Vec<Step> {
    if answers.len() > LEAF_CALLS {
        let (below, above) = answers.split_at(answers.len() / 2);
        let below = halve(below);
        // A conditional jump reaches 255 steps only.
        let mut steps = vec![jump(libc::BPF_JGE, above[0].0, 0, 1), Step::Filter(always(below.len() as u32))];
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

fn always(steps: u32) -> sock_filter {
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

    /// Runs a filter as the kernel does, for the steps that are used here.
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
