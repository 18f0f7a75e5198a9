//! Opening `/dev/kvm` and asking it for its limits.
use kvm_ioctls::{Cap, Kvm, VmFd};

/// The version of the KVM API that every kernel since 2.6.22 speaks.
const API_VERSION: i32 = 12;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device cannot be opened.
    #[error(
        "cannot open /dev/kvm; load the kvm module and let this user read and write the device, or run with \
         `--host emulated`; `coracle doctor` shows more"
    )]
    Open(#[source] kvm_ioctls::Error),
    /// The kernel speaks another API.
    #[error("/dev/kvm speaks API version {0}, coracle needs {API_VERSION}; use a newer host kernel")]
    Version(i32),
    /// The VM object cannot be created.
    #[error("KVM cannot create a VM; `coracle doctor` shows what this host offers")]
    Create(#[source] kvm_ioctls::Error),
    /// More vCPUs than KVM can give.
    #[error("machine-config.vcpu_count is {asked}, but this host's KVM allows at most {limit}; ask for fewer")]
    Vcpus {
        /// From the spec.
        asked: u32,
        /// `KVM_CAP_MAX_VCPUS`.
        limit: u32,
    },
    /// KVM lacks something without which no VM can run.
    #[error("this host's KVM lacks {0}; use a newer host kernel")]
    Missing(&'static str),
}

/// Opens KVM and checks that it can carry `vcpus` vCPUs.
pub(crate) fn open(vcpus: u32) -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(KvmError::Open)?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::Version(version));
    }
    for (cap, name) in [
        (Cap::UserMemory, "user memory"),
        (Cap::Irqfd, "interrupts by eventfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::ImmediateExit, "immediate_exit"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Missing(name));
        }
    }
    let limit = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
    if vcpus > limit {
        return Err(KvmError::Vcpus { asked: vcpus, limit });
    }
    Ok(kvm)
}

/// Creates the VM object. A signal may interrupt the call, which then is simply made again.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return other.map_err(KvmError::Create),
        }
    }
}
