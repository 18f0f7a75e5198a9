//! Which device nodes the processes of a cgroup may make and open (cgroup-v2.rst § Device controller): rules become a
//! program that the kernel runs at each mknod and open, and that is attached to the cgroup.
//!
//! Each of reading, writing and making is decided by the last rule that names it and the device. What no rule names is
//! refused.
use super::{
    Cgroup,
    sys::{self, Instruction},
};
use crate::container::{
    Error, Result,
    spec::{Device, DeviceRule},
};
use std::os::fd::AsFd;

/// Programs are short; the kernel takes 4096 instructions of anybody.
const MAX_INSTRUCTIONS: usize = 4096;

/// What a program may be asked for (BPF_DEVCG_ACC_*).
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// What a device is (BPF_DEVCG_DEV_*).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Character devices that every container has (config-linux.md § Default Devices), terminals included.
const DEFAULTS: &[(i64, Option<i64>)] = &[
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

impl Cgroup {
    /// Restricts device nodes to the rules of a container, the devices that every container has, and the making (not
    /// the opening) of its own `nodes`. Takes the place of earlier rules without a gap.
    pub fn restrict_devices(&self, rules: &[DeviceRule], nodes: &[Device]) -> Result<()> {
        let program = program(&complete(rules, nodes))?;
        let wish = || format!("restrict device nodes in {}", self.path().display());
        let folder = self.folder()?;
        sys::attach(&program, folder.as_fd()).map_err(Error::step(wish()))
    }
}

/// The rules of the configuration, and what comes after them.
fn complete(rules: &[DeviceRule], nodes: &[Device]) -> Vec<DeviceRule> {
    let defaults = DEFAULTS.iter().map(|(major, minor)| allow("c", *major, *minor, "rwm"));
    let nodes = nodes.iter().filter_map(|node| match node.kind.as_str() {
        "c" | "u" => Some(allow("c", node.major, Some(node.minor), "m")),
        "b" => Some(allow("b", node.major, Some(node.minor), "m")),
        // A pipe is no device to the kernel.
        _ => None,
    });
    rules.iter().cloned().chain(defaults).chain(nodes).collect()
}

fn allow(kind: &str, major: i64, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(kind.to_owned()),
        major: Some(major),
        minor,
        access: Some(access.to_owned()),
    }
}

/// Operations (BPF instruction set), on 32 bits where there is a choice.
pub(super) mod code {
    pub(crate) const LOAD_WORD: u8 = 0x61;
    pub(crate) const MOVE: u8 = 0xb7;
    pub(crate) const COPY: u8 = 0xbf;
    pub(crate) const AND: u8 = 0x54;
    pub(crate) const SHIFT_RIGHT: u8 = 0x74;
    pub(crate) const UNLESS_EQUAL: u8 = 0x56;
    pub(crate) const IF_ANY: u8 = 0x46;
    pub(crate) const JUMP: u8 = 0x05;
    pub(crate) const EXIT: u8 = 0x95;
}

/// Registers: the result, the context (struct bpf_cgroup_dev_ctx), and what is taken from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The kinds of access that no rule has decided yet.
const OPEN: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn with(code: u8, register: u8, value: u32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        value: value.cast_signed(),
    }
}

/// Goes past the next `offset` instructions, which are those of one rule at most.
fn unless(register: u8, value: u32, offset: usize) -> Instruction {
    Instruction {
        offset: i16::try_from(offset).unwrap_or(i16::MAX),
        ..with(code::UNLESS_EQUAL, register, value)
    }
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: code::LOAD_WORD,
        registers: register | CONTEXT << 4,
        offset,
        value: 0,
    }
}

fn answer(allowed: bool) -> [Instruction; 2] {
    [with(code::MOVE, RESULT, u32::from(allowed)), with(code::EXIT, 0, 0)]
}

/// The program for rules in their order.
pub(super) fn program(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    let mut program = vec![
        load(KIND, 0),
        Instruction {
            registers: OPEN | KIND << 4,
            ..with(code::COPY, 0, 0)
        },
        with(code::AND, KIND, 0xffff),
        with(code::SHIFT_RIGHT, OPEN, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
        // Whoever only asks whether a node is there wants none of the three.
        unless(OPEN, 0, 2),
    ];
    program.extend(answer(true));
    for (at, rule) in rules.iter().enumerate().rev() {
        program.extend(block(rule, &format!("linux.resources.devices[{at}]"))?);
    }
    program.extend(answer(false));
    if program.len() > MAX_INSTRUCTIONS {
        let problem = format!("{} rules are more than the kernel takes: use wildcards", rules.len());
        return Err(Error::spec("linux.resources.devices", problem));
    }
    Ok(program)
}

/// What one rule does: decides some access and ends the program, or goes on behind itself.
fn block(rule: &DeviceRule, key: &str) -> Result<Vec<Instruction>> {
    let access = access(rule, key)?;
    let mut decide = Vec::new();
    if rule.allow {
        // All decided, and nothing was refused.
        decide.push(with(code::AND, OPEN, !access & (MAKE | READ | WRITE)));
        decide.push(unless(OPEN, 0, 2));
        decide.extend(answer(true));
    } else {
        decide.push(Instruction {
            offset: 1,
            ..with(code::IF_ANY, OPEN, access)
        });
        decide.push(Instruction {
            offset: 2,
            ..with(code::JUMP, 0, 0)
        });
        decide.extend(answer(false));
    }
    let kind = match rule.kind.as_deref() {
        None | Some("a") => None,
        Some("b") => Some(BLOCK),
        Some("c" | "u") => Some(CHARACTER),
        Some(other) => {
            let problem = format!("{other:?} is no kind of device: give \"a\", \"b\" or \"c\"");
            return Err(Error::spec(format!("{key}.type"), problem));
        }
    };
    let tests = [
        (KIND, kind),
        (MAJOR, number(rule.major, &format!("{key}.major"))?),
        (MINOR, number(rule.minor, &format!("{key}.minor"))?),
    ];
    let mut block = decide;
    for (register, wanted) in tests.into_iter().rev() {
        if let Some(wanted) = wanted {
            block.insert(0, unless(register, wanted, block.len()));
        }
    }
    Ok(block)
}

/// The number of a device; none is any, and so is -1, as some write.
fn number(given: Option<i64>, key: &str) -> Result<Option<u32>> {
    match given {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::spec(key, format!("{number} is no number of a device"))),
        },
    }
}

fn access(rule: &DeviceRule, key: &str) -> Result<u32> {
    let text = rule.access.as_deref().filter(|it| !it.is_empty()).unwrap_or("rwm");
    text.chars().try_fold(0, |access, letter| match letter {
        'r' => Ok(access | READ),
        'w' => Ok(access | WRITE),
        'm' => Ok(access | MAKE),
        _ => Err(Error::spec(
            format!("{key}.access"),
            format!("{text:?} has other letters than \"r\", \"w\" and \"m\""),
        )),
    })
}

#[cfg(test)]
mod tests;
