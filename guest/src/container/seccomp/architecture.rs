//! Architectures whose system calls a process of this machine can make.
use crate::container::{Error, Result};

/// An architecture as the kernel tells a filter: by its own number and, for x32, by a bit of the call's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// Names of the specification for which no kernel runs here.
const ELSEWHERE: &[&str] = &[
    "LOONGARCH64",
    "M68K",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PARISC",
    "PARISC64",
    "PPC",
    "PPC64",
    "PPC64LE",
    "RISCV64",
    "S390",
    "S390X",
    "SH",
    "SHEB",
];

impl Architecture {
    /// The one that this program is built for.
    pub(super) fn native() -> Self {
        match std::env::consts::ARCH {
            "aarch64" => Self::Aarch64,
            _ => Self::X86_64,
        }
    }

    /// What the kernel calls it (linux/audit.h); x32 shares it with x86_64.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 32 bits. Registers of x32 are wider, but its types are not.
    pub(super) fn is_narrow(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// Whether processes of both run on the same machine.
    fn is_kin(self, other: Self) -> bool {
        let of_arm = |it| matches!(it, Self::Aarch64 | Self::Arm);
        of_arm(self) == of_arm(other)
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "X86_64" => Self::X86_64,
            "X86" => Self::X86,
            "X32" => Self::X32,
            "AARCH64" => Self::Aarch64,
            "ARM" => Self::Arm,
            _ => return None,
        })
    }
}

/// What a profile's architectures come to on a machine: its own first, and those that can run there.
pub(super) fn of_profile(names: &[String], native: Architecture) -> Result<Vec<Architecture>> {
    let mut found = vec![native];
    for (at, full) in names.iter().enumerate() {
        let name = full.strip_prefix("SCMP_ARCH_").unwrap_or_default();
        match Architecture::from_name(name) {
            Some(it) if it.is_kin(native) && !found.contains(&it) => found.push(it),
            Some(_) => {}
            None if name == "NATIVE" || ELSEWHERE.contains(&name) => {}
            None => {
                let problem = format!("{full:?} is no architecture: give one as SCMP_ARCH_X86_64 or SCMP_ARCH_AARCH64");
                return Err(Error::spec(format!("linux.seccomp.architectures[{at}]"), problem));
            }
        }
    }
    Ok(found)
}
