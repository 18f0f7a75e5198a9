//! From rules to instructions of the kernel's filter language (linux/filter.h, linux/seccomp.h): by architecture, then
//! by a balanced tree over the numbers of calls, then by conditions. A filter costs on every call of the workload; calls
//! that depend on their number alone are decided once by the kernel, which then remembers them.
use super::{
    architecture::Architecture,
    names::{Condition, Test, answer},
    rules::{Rules, Verdict},
};

/// One instruction, as the kernel wants it (struct sock_filter).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) value: u32,
}

pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQ: u16 = 0x15;
pub(super) const JUMP_GT: u16 = 0x25;
pub(super) const JUMP_GE: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
pub(super) const AND: u16 = 0x54;

/// Where the kernel puts things in what a filter sees (struct seccomp_data); arguments have 8 bytes, the low half first.
const NUMBER: u32 = 0;
const AUDIT: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Set in numbers of x32's calls.
pub(super) const X32: u32 = 0x4000_0000;
/// The number that a tracer leaves of a call that it has skipped.
const SKIPPED: u32 = u32::MAX;
/// From here on are the calls that only 32-bit Arm has; all others are numbered below.
const ARM_PRIVATE: u32 = 0x000f_0000;

type Block = Vec<Instruction>;

fn plain(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        yes: 0,
        no: 0,
        value,
    }
}

fn answers(value: u32) -> Block {
    vec![plain(RETURN, value)]
}

/// The program for the architectures of a machine, the most used one first.
pub(super) fn assemble(rules: &Rules, architectures: &[Architecture]) -> Block {
    let mut program = vec![plain(LOAD, AUDIT)];
    for architecture in architectures {
        // x32 is decided with x86_64, whose number it has.
        if *architecture == Architecture::X32 {
            continue;
        }
        let mut ranges = ranges(rules, *architecture);
        if *architecture == Architecture::X86_64 {
            let x32 = architectures.contains(&Architecture::X32);
            ranges.extend(if x32 {
                let shifted = |(first, block)| (first | X32, block);
                self::ranges(rules, Architecture::X32)
                    .into_iter()
                    .map(shifted)
                    .collect()
            } else {
                vec![(X32, answers(answer::KILL_THREAD))]
            });
            ranges.push((SKIPPED, answers(rules.default())));
        }
        let mut body = vec![plain(LOAD, NUMBER)];
        body.extend(tree(&ranges));
        program.extend(unless(JUMP_EQ, architecture.audit(), body.len()));
        program.extend(body);
    }
    program.extend(answers(answer::KILL_THREAD));
    program
}

/// Goes on if the comparison holds, else past the next `len` instructions.
fn unless(code: u16, value: u32, len: usize) -> Block {
    match u8::try_from(len) {
        Ok(no) => vec![Instruction {
            code,
            yes: 0,
            no,
            value,
        }],
        Err(_) => vec![
            Instruction {
                code,
                yes: 1,
                no: 0,
                value,
            },
            plain(JUMP, len as u32),
        ],
    }
}

/// Goes on if the comparison does not hold, else past the next `len` instructions.
fn when(code: u16, value: u32, len: usize) -> Block {
    match u8::try_from(len) {
        Ok(yes) => vec![Instruction {
            code,
            yes,
            no: 0,
            value,
        }],
        Err(_) => vec![
            Instruction {
                code,
                yes: 0,
                no: 1,
                value,
            },
            plain(JUMP, len as u32),
        ],
    }
}

/// The first number of each range of calls that end the same, ascending from 0.
fn ranges(rules: &Rules, architecture: Architecture) -> Vec<(u32, Block)> {
    let default = answers(rules.default());
    let mut ranges: Vec<(u32, Block)> = Vec::new();
    let mut add = |first: u32, block: Block| {
        if ranges.last().is_none_or(|(_, last)| *last != block) {
            ranges.push((first, block));
        }
    };
    let mut next = 0;
    for (number, verdict) in rules.verdicts(architecture) {
        if number > next {
            let newer = (1..ARM_PRIVATE).contains(&next) && number >= ARM_PRIVATE;
            add(next, if newer { answers(rules.newer()) } else { default.clone() });
        }
        add(number, decide(&verdict, rules.default(), architecture));
        next = number + 1;
    }
    add(next, if next == 0 { default } else { answers(rules.newer()) });
    ranges
}

/// Finds the range of the loaded number.
fn tree(ranges: &[(u32, Block)]) -> Block {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((first, block)) = high.first() else {
        return Block::new();
    };
    if low.is_empty() {
        return block.clone();
    }
    let low = tree(low);
    let mut found = when(JUMP_GE, *first, low.len());
    found.extend(low);
    found.extend(tree(high));
    found
}

/// Decides one call.
fn decide(verdict: &Verdict, default: u32, architecture: Architecture) -> Block {
    if let Some(answer) = verdict.always {
        return answers(answer);
    }
    let mut block = Block::new();
    for (conditions, answer) in &verdict.cases {
        let mut case = Vec::new();
        for condition in conditions {
            case.extend(test(condition, architecture.is_narrow()));
        }
        // A case that does not hold goes past its answer.
        let end = case.len() + 1;
        block.extend(case.into_iter().enumerate().map(|(at, step)| step.place(end - at - 1)));
        block.extend(answers(*answer));
    }
    block.extend(answers(default));
    block
}

/// An instruction of a case, of which the place in it is not known yet.
struct Step {
    code: u16,
    value: u32,
    yes: To,
    no: To,
}

/// Where a step goes.
#[derive(Clone, Copy)]
enum To {
    /// Past that many steps.
    Past(u8),
    /// The case does not hold.
    Out,
}

impl Step {
    /// `rest` instructions from here the case ends: at most 6 conditions of 6 steps, so it fits.
    fn place(self, rest: usize) -> Instruction {
        let offset = |to| match to {
            To::Past(steps) => steps,
            To::Out => rest as u8,
        };
        Instruction {
            code: self.code,
            yes: offset(self.yes),
            no: offset(self.no),
            value: self.value,
        }
    }
}

/// Goes on if the condition holds.
fn test(condition: &Condition, narrow: bool) -> Vec<Step> {
    use To::{Out, Past};
    let at = ARGUMENTS + 8 * u32::from(condition.argument);
    let step = |code, value, yes, no| Step { code, value, yes, no };
    let load_low = || step(LOAD, at, Past(0), Past(0));
    let load_high = || step(LOAD, at + 4, Past(0), Past(0));
    let (low, high) = (|value: u64| value as u32, |value: u64| (value >> 32) as u32);
    // How the low half decides, and for which value.
    let (value, mask, code, yes, no) = match condition.test {
        Test::Eq(value) => (value, u64::MAX, JUMP_EQ, Past(0), Out),
        Test::Ne(value) => (value, u64::MAX, JUMP_EQ, Out, Past(0)),
        Test::Gt(value) => (value, u64::MAX, JUMP_GT, Past(0), Out),
        Test::Ge(value) => (value, u64::MAX, JUMP_GE, Past(0), Out),
        Test::Lt(value) => (value, u64::MAX, JUMP_GE, Out, Past(0)),
        Test::Le(value) => (value, u64::MAX, JUMP_GT, Out, Past(0)),
        Test::Masked { mask, value } => (value & mask, mask, JUMP_EQ, Past(0), Out),
    };
    let masked = matches!(condition.test, Test::Masked { .. });
    let mut decide_low = vec![load_low()];
    if masked {
        decide_low.push(step(AND, low(mask), Past(0), Past(0)));
    }
    decide_low.push(step(code, low(value), yes, no));
    if narrow {
        return decide_low;
    }
    let past_low = Past(decide_low.len() as u8);
    let mut steps = vec![load_high()];
    match condition.test {
        Test::Eq(_) => steps.push(step(JUMP_EQ, high(value), Past(0), Out)),
        Test::Ne(_) => steps.push(step(JUMP_EQ, high(value), Past(0), past_low)),
        Test::Masked { .. } => {
            steps.push(step(AND, high(mask), Past(0), Past(0)));
            steps.push(step(JUMP_EQ, high(value), Past(0), Out));
        }
        Test::Gt(_) | Test::Ge(_) => {
            steps.push(step(JUMP_GT, high(value), Past(decide_low.len() as u8 + 1), Past(0)));
            steps.push(step(JUMP_EQ, high(value), Past(0), Out));
        }
        Test::Lt(_) | Test::Le(_) => {
            steps.push(step(JUMP_GT, high(value), Out, Past(0)));
            steps.push(step(JUMP_EQ, high(value), Past(0), past_low));
        }
    }
    steps.extend(decide_low);
    steps
}
