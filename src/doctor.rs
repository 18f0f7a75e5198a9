//! What this machine can do, and the remedy for what it cannot. Looks at the machine, changes nothing, prints nothing.
use crate::host::{self, HostArch, KvmKind, kvm_kind};
use kvm_bindings as kvm;
use kvm_ioctls::Kvm;
use serde::Serialize;
use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether coracle can use it as it is.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do about it, if something can be done.
    pub remedy: Option<String>,
}

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether a VM can be run some way.
    pub can_run: bool,
    /// One per thing looked at.
    pub checks: Vec<Check>,
}

impl Check {
    fn new(name: impl Into<String>, ok: bool, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// The remedy, where the check is not ok.
    fn or(mut self, remedy: impl Into<String>) -> Self {
        if !self.ok {
            self.remedy = Some(remedy.into());
        }
        self
    }
}

/// Looks at everything.
pub fn examine() -> Report {
    let kind = kvm_kind();
    let mut checks = vec![kvm_check(&kind)];
    checks.extend(capability_check());
    checks.push(tun_check());
    checks.push(cgroup_check());
    checks.push(transparent_huge_pages());
    checks.push(reserved_huge_pages());
    let mut emulator = false;
    for arch in HostArch::ALL {
        let check = qemu_check(arch);
        emulator |= check.ok && arch.is_native();
        checks.push(check);
        if arch == HostArch::X86_64 {
            checks.extend(erratum_check());
        }
        checks.push(bundle_check(arch));
    }
    let memory = memory_check();
    let can_run = memory.ok && (kind.runs_stock_kernels() || emulator);
    checks.push(memory);
    Report { can_run, checks }
}

fn kvm_check(kind: &KvmKind) -> Check {
    let remedy = match kind {
        KvmKind::Inaccessible { .. } => "add yourself to the group of /dev/kvm, as `usermod -aG kvm $USER`",
        KvmKind::None => {
            "load kvm_intel or kvm_amd and switch virtualisation on in the firmware; until then VMs run in the emulated host"
        }
        _ => "nothing to do: VMs run in the emulated host (--host auto)",
    };
    Check::new("KVM", kind.runs_stock_kernels(), kind.to_string()).or(remedy)
}

/// What coracle uses of KVM; `true` for what it cannot do without on every architecture.
const CAPABILITIES: &[(&str, u32, bool)] = &[
    ("user memory", kvm::KVM_CAP_USER_MEMORY, true),
    ("irqfd", kvm::KVM_CAP_IRQFD, true),
    ("ioeventfd", kvm::KVM_CAP_IOEVENTFD, true),
    ("immediate exit", kvm::KVM_CAP_IMMEDIATE_EXIT, true),
    ("one register", kvm::KVM_CAP_ONE_REG, false),
    ("in-kernel irqchip", kvm::KVM_CAP_IRQCHIP, false),
    ("TSC deadline timer", kvm::KVM_CAP_TSC_DEADLINE_TIMER, false),
    ("PSCI 0.2", kvm::KVM_CAP_ARM_PSCI_0_2, false),
];

fn capability_check() -> Option<Check> {
    let kvm = Kvm::new().ok()?;
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for &(name, number, needed) in CAPABILITIES {
        if kvm.check_extension_raw(number.into()) > 0 {
            present.push(name);
        } else if needed {
            missing.push(name);
        }
    }
    let version = kvm.get_api_version();
    let vcpus = kvm.check_extension_raw(kvm::KVM_CAP_MAX_VCPUS.into());
    let mut found = format!("version {version}, up to {vcpus} vCPUs; {}", present.join(", "));
    if !missing.is_empty() {
        found.push_str("; missing: ");
        found.push_str(&missing.join(", "));
    }
    let ok = version == 12 && missing.is_empty();
    Some(Check::new("KVM interface", ok, found).or("use a newer kernel"))
}

fn tun_check() -> Check {
    let path = "/dev/net/tun";
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Check::new("TUN", true, format!("{path} opens")),
        Err(error) => Check::new("TUN", false, format!("{path}: {error}"))
            .or("load the module tun, or run as a user who may open it; only networking needs it"),
    }
}

fn cgroup_check() -> Check {
    let root = Path::new("/sys/fs/cgroup");
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1; only resource limits of containers need it";
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        return Check::new("cgroups", true, format!("version 2 ({})", controllers.trim()));
    }
    let version_1 = root.join("memory").is_dir() || root.join("cpu").is_dir();
    let found = if version_1 { "version 1" } else { "not mounted" };
    Check::new("cgroups", false, found).or(remedy)
}

fn transparent_huge_pages() -> Check {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let text = fs::read_to_string(path).unwrap_or_default();
    let mode = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("not offered by this kernel", |(mode, _)| mode);
    let ok = matches!(mode, "always" | "madvise");
    Check::new("transparent huge pages", ok, mode).or(format!("`echo madvise > {path}` makes guests faster"))
}

fn reserved_huge_pages() -> Check {
    let dir = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    let count = |name: &str| -> u64 {
        let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let (total, free) = (count("nr_hugepages"), count("free_hugepages"));
    Check::new(
        "huge page pool",
        free > 0,
        format!("{free} of {total} pages of 2 MiB free"),
    )
    .or("`sysctl vm.nr_hugepages=N`; only configs with `huge_pages: \"2M\"` need it")
}

fn qemu_check(arch: HostArch) -> Check {
    let name = format!("QEMU for {arch}");
    let (program, package) = host::qemu_of(arch);
    let remedy = format!("`apt-get install {package}`; only the emulated {arch} host needs it");
    let Some(path) = host::find_program(program) else {
        return Check::new(name, false, format!("{program} is not in PATH")).or(remedy);
    };
    let output = Command::new(&path).arg("--version").output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.lines().next().unwrap_or_default().to_string();
            Check::new(name, true, version)
        }
        Ok(output) => Check::new(name, false, format!("{} ends with {}", path.display(), output.status)).or(remedy),
        Err(error) => Check::new(name, false, format!("{}: {error}", path.display())).or(remedy),
    }
}

fn erratum_check() -> Option<Check> {
    let path = host::find_program(host::qemu_of(HostArch::X86_64).0)?;
    let known = host::erratum_is_known(&path).unwrap_or(false);
    let found = if known {
        "known; the emulated host runs a private copy of QEMU without it"
    } else {
        "the code does not look as known, so it cannot be worked around"
    };
    Some(
        Check::new("QEMU's SVM erratum", known, found)
            .or("use Debian's qemu-system-x86 7.2 or 10.0; nested x86_64 guests may hang otherwise"),
    )
}

fn bundle_check(arch: HostArch) -> Check {
    let manifest = Path::new("target/bundle").join(arch.name()).join("manifest.json");
    let ok = manifest.is_file();
    let found = if ok { "at " } else { "not at " };
    Check::new(
        format!("kernel bundle for {arch}"),
        ok,
        format!("{found}{}", manifest.display()),
    )
    .or(format!("`coracle kernel build --arch {arch}`"))
}

fn memory_check() -> Check {
    let free = host::free_memory_mib().unwrap_or(0);
    Check::new("free memory", free >= 1024, format!("{free} MiB"))
        .or("end other programs; a small guest wants 256 MiB, the emulated host 1 GiB and more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_that_is_not_ok_says_what_to_do() {
        let report = examine();
        assert!(report.checks.len() >= 10);
        for check in &report.checks {
            assert!(!check.found.is_empty(), "{}", check.name);
            assert_eq!(check.remedy.is_none(), check.ok, "{}", check.name);
        }
    }
}
