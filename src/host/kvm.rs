//! What kind of KVM this machine has: whether a stock kernel can run on it. Looks, changes nothing.
use super::HostArch;
use serde::Serialize;
use std::{fs::File, io, path::Path};

/// The KVM of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KvmKind {
    /// By the processor: runs any kernel.
    Hardware {
        /// Which extension: "VMX", "SVM", "EL2".
        by: &'static str,
    },
    /// Without the processor's help: runs kernels made for it, and no stock kernel.
    Software {
        /// The kernel module.
        module: &'static str,
    },
    /// Something that this version of coracle does not know, so that nothing can be promised.
    Unknown,
    /// There, but it cannot be opened.
    Inaccessible {
        /// The system's answer.
        reason: String,
    },
    /// There is none.
    None,
}

impl KvmKind {
    /// Whether a stock distribution kernel runs on it.
    pub fn runs_stock_kernels(&self) -> bool {
        matches!(self, Self::Hardware { .. })
    }
}

impl std::fmt::Display for KvmKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hardware { by } => write!(f, "hardware ({by})"),
            Self::Software { module: "kvm_pvm" } => f.write_str("PVM software KVM: cannot run a stock kernel"),
            Self::Software { module } => write!(f, "software KVM ({module}): cannot run a stock kernel"),
            Self::Unknown => f.write_str("of unknown kind: no module of KVM that is known to run a stock kernel"),
            Self::Inaccessible { reason } => write!(f, "cannot be opened: {reason}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// Modules that tell the kind; the first that is loaded decides.
const HARDWARE: &[(&str, &str)] = &[("kvm_intel", "VMX"), ("kvm_amd", "SVM")];
const SOFTWARE: &[&str] = &["kvm_pvm"];

/// Looks at `/dev/kvm` and the kernel's modules.
pub fn kvm_kind() -> KvmKind {
    kind_from(
        File::options().read(true).write(true).open("/dev/kvm").map(|_| ()),
        Path::new("/sys/module"),
        HostArch::native(),
    )
}

fn kind_from(opened: io::Result<()>, modules: &Path, arch: Option<HostArch>) -> KvmKind {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return KvmKind::None,
        Err(error) => {
            return KvmKind::Inaccessible {
                reason: error.to_string(),
            };
        }
        Ok(()) => {}
    }
    let loaded = |name: &str| modules.join(name).is_dir();
    // On Arm KVM is one with the kernel, and is there only where the processor has EL2.
    if arch == Some(HostArch::Aarch64) {
        return KvmKind::Hardware { by: "EL2" };
    }
    if let Some((_, by)) = HARDWARE.iter().find(|(name, _)| loaded(name)) {
        return KvmKind::Hardware { by };
    }
    match SOFTWARE.iter().find(|name| loaded(name)) {
        Some(module) => KvmKind::Software { module },
        None => KvmKind::Unknown,
    }
}

/// Where the user wants a VM to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostChoice {
    /// On this machine's KVM if a stock kernel runs there, else in the emulated host.
    #[default]
    Auto,
    /// On this machine's KVM, whatever it is.
    Kvm,
    /// In the emulated host.
    Emulated,
}

impl HostChoice {
    /// Whether it comes to the emulated host, for a guest of this architecture.
    pub fn is_emulated(self, arch: HostArch) -> bool {
        match self {
            Self::Auto => !arch.is_native() || !kvm_kind().runs_stock_kernels(),
            Self::Kvm => false,
            Self::Emulated => true,
        }
    }
}

impl std::str::FromStr for HostChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "emulated" => Ok(Self::Emulated),
            _ => Err("choose auto, kvm or emulated".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_software_kvm_is_named_and_not_taken_for_hardware() {
        let dir = std::env::temp_dir().join(format!("coracle-kvm-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("kvm")).unwrap();
        let x86 = Some(HostArch::X86_64);
        assert_eq!(kind_from(Ok(()), &dir, x86), KvmKind::Unknown);
        std::fs::create_dir_all(dir.join("kvm_pvm")).unwrap();
        let pvm = kind_from(Ok(()), &dir, x86);
        assert!(!pvm.runs_stock_kernels() && pvm.to_string().starts_with("PVM software KVM"));
        std::fs::create_dir_all(dir.join("kvm_amd")).unwrap();
        assert_eq!(kind_from(Ok(()), &dir, x86), KvmKind::Hardware { by: "SVM" });
        assert!(kind_from(Ok(()), &dir.join("none"), Some(HostArch::Aarch64)).runs_stock_kernels());
        let missing = kind_from(Err(io::ErrorKind::NotFound.into()), &dir, x86);
        assert_eq!(missing, KvmKind::None);
        let denied = kind_from(Err(io::ErrorKind::PermissionDenied.into()), &dir, x86);
        assert!(matches!(denied, KvmKind::Inaccessible { .. }) && !denied.runs_stock_kernels());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
