//! The filter of system calls (config-linux.md § Seccomp): a profile becomes a program of the kernel's packet filter
//! language, which the process loads for itself right before it becomes the workload.
//!
//! What a profile means follows libseccomp, which the other runtimes use:
//! - A rule without conditions decides all calls of its name, wherever it stands; of several the first one does.
//! - Of rules with conditions the first one that holds decides.
//! - Conditions on different arguments must all hold. If one argument stands twice in a rule, each condition is a rule.
//! - A rule with the default's action says nothing, and names that no kernel has are left out
//!   ([`Filter::unknown_calls`]).
//! - A call of an architecture that the profile does not name ends the thread. The machine's own is always there.
//! - Where the default refuses, calls with numbers above all that the profile names give ENOSYS: they are newer than
//!   the profile, and programs know what to do without them.
mod architecture;
pub mod default;
mod names;
pub mod notify;
mod program;
mod rules;
mod sys;
mod table;
#[cfg(test)]
mod tests;

use super::{Error, Result, spec::Seccomp};
use architecture::Architecture;
use names::flag;
use program::Instruction;
use rules::Rules;
use std::{collections::BTreeSet, os::fd::OwnedFd};

/// What the kernel takes (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
    unknown: BTreeSet<String>,
}

impl Filter {
    /// Compiles a profile for this machine. Actions, operators, flags and architectures that are none are refused.
    pub fn compile(profile: &Seccomp) -> Result<Self> {
        Self::compile_for(profile, Architecture::native())
    }

    fn compile_for(profile: &Seccomp, native: Architecture) -> Result<Self> {
        let rules = Rules::of(profile)?;
        let mut flags = names::flags(&profile.flags)?;
        if rules.notifies() {
            flags |= flag::NEW_LISTENER;
            if flags & flag::TSYNC != 0 {
                flags |= flag::TSYNC_ESRCH;
            }
        } else if profile.listener_path.is_some() {
            let problem = "is set, but no rule has the action SCMP_ACT_NOTIFY: leave it out";
            return Err(Error::spec("linux.seccomp.listenerPath", problem));
        }
        let program = program::assemble(&rules, &architecture::of_profile(&profile.architectures, native)?);
        if program.len() > MAX_INSTRUCTIONS {
            let problem = format!(
                "the rules take {} instructions, the kernel allows {MAX_INSTRUCTIONS}: use fewer conditions",
                program.len()
            );
            return Err(Error::spec("linux.seccomp.syscalls", problem));
        }
        Ok(Self {
            program,
            flags,
            unknown: rules.unknown(),
        })
    }

    /// Names in the profile that are no system call on any architecture that is known here.
    pub fn unknown_calls(&self) -> &BTreeSet<String> {
        &self.unknown
    }

    /// Whether [`Self::load`] gives a descriptor that somebody must serve.
    pub fn notifies(&self) -> bool {
        self.flags & flag::NEW_LISTENER != 0
    }

    /// Puts the filter on the calling thread, for good. The caller has CAP_SYS_ADMIN or has set no_new_privs. Gives the
    /// descriptor of notifications if there are any; until [`notify::ProcessState::hand_over`] has passed it on, the
    /// calls that are notified of hang.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        sys::load(&self.program, self.flags).map_err(Error::step("load the filter of system calls"))
    }
}
