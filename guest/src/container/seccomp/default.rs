//! The profile for containers that bring none: what Docker allows, which is what images are made for. The lists are in
//! resources/seccomp/default.json.
use super::architecture::Architecture;
use crate::container::{
    Error, Result,
    spec::{Seccomp, SyscallRule},
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

const LISTS: &str = include_str!("../../../../resources/seccomp/default.json");

/// The file. Keys by architecture are names as in "x86_64", keys by capability as in "CAP_SYS_ADMIN".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Lists {
    default_action: String,
    default_errno_ret: u32,
    architectures: BTreeMap<String, Vec<String>>,
    /// By what they are for.
    always: BTreeMap<String, Vec<String>>,
    on_architecture: BTreeMap<String, Vec<String>>,
    with_capability: BTreeMap<String, Vec<String>>,
    without_capability: BTreeMap<String, Vec<SyscallRule>>,
    under_conditions: Vec<SyscallRule>,
}

/// The profile for a process with these capabilities, on this machine.
pub fn profile(capabilities: &[String]) -> Result<Seccomp> {
    profile_for(capabilities, Architecture::native())
}

pub(super) fn profile_for(capabilities: &[String], native: Architecture) -> Result<Seccomp> {
    let lists: Lists = serde_json::from_str(LISTS).map_err(Error::step("read the default filter of system calls"))?;
    let machine = match native {
        Architecture::Aarch64 | Architecture::Arm => "aarch64",
        Architecture::X86_64 | Architecture::X86 | Architecture::X32 => "x86_64",
    };
    let has = |capability: &str| capabilities.iter().any(|it| it == capability);
    let mut allowed: BTreeSet<String> = lists.always.into_values().flatten().collect();
    allowed.extend(lists.on_architecture.get(machine).into_iter().flatten().cloned());
    let granted = lists.with_capability.into_iter().filter(|(name, _)| has(name));
    allowed.extend(granted.flat_map(|(_, names)| names));
    let mut syscalls = vec![SyscallRule {
        names: allowed.into_iter().collect(),
        action: "SCMP_ACT_ALLOW".to_owned(),
        ..SyscallRule::default()
    }];
    syscalls.extend(lists.under_conditions);
    let withheld = lists.without_capability.into_iter().filter(|(name, _)| !has(name));
    syscalls.extend(withheld.flat_map(|(_, rules)| rules));
    Ok(Seccomp {
        default_action: lists.default_action,
        default_errno_ret: Some(lists.default_errno_ret),
        architectures: lists.architectures.get(machine).cloned().unwrap_or_default(),
        syscalls,
        ..Seccomp::default()
    })
}
