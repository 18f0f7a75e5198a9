//! What a container's process may do: its user, groups and capabilities (capabilities(7)).
//!
//! Given up in an order in which each step still has the right to be taken: the bounding set, groups, the user, then the
//! sets themselves, and the ambient set, which may hold only what the others hold, last of all.
use super::{
    Error, Result,
    spec::{Capabilities, Process},
};
use rustix::{
    fs::Mode,
    process::umask,
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use std::fs;

/// Names in the order of their numbers.
pub(super) const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Who a process becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Privileges {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: Option<u32>,
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Privileges {
    /// Checks what a process asks for. Capabilities that nobody knows are told of and left out (config.md § Linux
    /// Process).
    pub(super) fn new(process: &Process) -> Result<(Self, Vec<String>)> {
        let none = Capabilities::default();
        let capabilities = process.capabilities.as_ref().unwrap_or(&none);
        let mut unknown = Vec::new();
        let mut set = |names: &[String]| {
            names.iter().fold(CapabilitySet::empty(), |set, name| {
                if let Some(number) = number(name) {
                    set | CapabilitySet::from_bits_retain(1 << number)
                } else {
                    unknown.push(format!("process.capabilities: {name} is not known and left out"));
                    set
                }
            })
        };
        let user = &process.user;
        let privileges = Self {
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
            umask: user.umask,
            bounding: set(&capabilities.bounding),
            effective: set(&capabilities.effective),
            permitted: set(&capabilities.permitted),
            inheritable: set(&capabilities.inheritable),
            ambient: set(&capabilities.ambient),
        };
        if let Some(umask) = user.umask.filter(|umask| *umask > 0o777) {
            return Err(Error::spec(
                "process.user.umask",
                format!("{umask:#o} is more than 0777"),
            ));
        }
        unknown.dedup();
        Ok((privileges, unknown))
    }

    /// The user's number in the container.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The group's number in the container.
    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    /// This process becomes that user, with those capabilities and no more.
    pub(super) fn take_on(&self) -> Result<()> {
        self.bound()?;
        // Those of the permitted set would be lost with user 0.
        set_keep_capabilities(true).map_err(Error::step("keep capabilities across the change of user"))?;
        self.become_user()?;
        set_keep_capabilities(false).map_err(Error::step("lose capabilities with the next change of user"))?;
        let sets = CapabilitySets {
            effective: self.effective,
            permitted: self.permitted,
            inheritable: self.inheritable,
        };
        set_capabilities(None, sets).map_err(Error::step(format!(
            "set the capabilities: effective {}",
            names(self.effective)
        )))?;
        // There is no ambient set before Linux 4.3, and nothing to clear.
        let _ = clear_ambient_capability_set();
        for capability in self.ambient.iter() {
            // The specification wants no error for what cannot be granted; the kernel refuses what is not both
            // permitted and inheritable.
            if self.permitted.contains(capability) && self.inheritable.contains(capability) {
                configure_capability_in_ambient_set(capability, true).map_err(Error::step(format!(
                    "add {} to the ambient capabilities",
                    names(capability)
                )))?;
            }
        }
        if let Some(mask) = self.umask {
            umask(Mode::from_raw_mode(mask));
        }
        Ok(())
    }

    fn bound(&self) -> Result<()> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The kernel knows no capability of that number, nor any above.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => {
                    let wish = format!("take {} from the bounding set", names(capability));
                    return Err(Error::step(wish)(error));
                }
            }
        }
        Ok(())
    }

    fn become_user(&self) -> Result<()> {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|group| rustix::process::Gid::from_raw(*group))
            .collect();
        if !groups.is_empty() || may_set_groups() {
            set_thread_groups(&groups).map_err(Error::step(format!("set the additional groups {:?}", self.groups)))?;
        }
        let gid = rustix::process::Gid::from_raw(self.gid);
        set_thread_res_gid(gid, gid, gid).map_err(Error::step(format!("become group {}", self.gid)))?;
        let uid = rustix::process::Uid::from_raw(self.uid);
        set_thread_res_uid(uid, uid, uid).map_err(Error::step(format!("become user {}", self.uid)))
    }
}

/// Groups cannot be set in a user namespace of somebody without rights outside (user_namespaces(7)).
fn may_set_groups() -> bool {
    fs::read("/proc/self/setgroups").is_ok_and(|said| !said.starts_with(b"deny"))
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set
        .iter()
        .map(|one| {
            let number = one.bits().trailing_zeros() as usize;
            NAMES
                .get(number)
                .map_or_else(|| number.to_string(), ToString::to_string)
        })
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(
            number("CAP_SYS_ADMIN"),
            Some(CapabilitySet::SYS_ADMIN.bits().trailing_zeros() as usize)
        );
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("SYS_ADMIN"), None);
        assert_eq!(names(CapabilitySet::KILL | CapabilitySet::BPF), "CAP_KILL CAP_BPF");
    }

    #[test]
    fn capabilities_that_nobody_knows_are_told_of() {
        let process = Process {
            capabilities: Some(Capabilities {
                bounding: vec!["CAP_KILL".into(), "CAP_FLY".into()],
                ..Capabilities::default()
            }),
            ..Process::default()
        };
        let (privileges, unknown) = Privileges::new(&process).unwrap();
        assert_eq!(privileges.bounding, CapabilitySet::KILL);
        assert_eq!(unknown, ["process.capabilities: CAP_FLY is not known and left out"]);
    }
}
