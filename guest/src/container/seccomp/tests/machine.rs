//! Runs a filter's program, with the kernel's rules: forward jumps within the program only.
use crate::container::seccomp::program::{AND, Instruction, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, RETURN};

/// What a filter sees of a call.
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) audit: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, at: u32) -> u32 {
        match at {
            0 => self.number,
            4 => self.audit,
            16.. if at.is_multiple_of(8) => self.arguments[(at as usize - 16) / 8] as u32,
            20.. if at.is_multiple_of(4) => (self.arguments[(at as usize - 20) / 8] >> 32) as u32,
            _ => panic!("nothing at {at}"),
        }
    }
}

pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, yes, no, value } = program[at];
        at += 1;
        let mut branch = |holds| at += usize::from(if holds { yes } else { no });
        match code {
            LOAD => accumulator = call.word(value),
            AND => accumulator &= value,
            JUMP => at += value as usize,
            JUMP_EQ => branch(accumulator == value),
            JUMP_GT => branch(accumulator > value),
            JUMP_GE => branch(accumulator >= value),
            RETURN => return value,
            _ => panic!("no instruction: {code:#x}"),
        }
    }
}
