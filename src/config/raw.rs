//! A config as the user typed it: Firecracker's config-file schema plus coracle's own keys.
//!
//! Pure data, on any thread: it names files but never opens them, and holds no rule beyond shapes and names. The
//! rules are in [`super::check`]. Doc comments on fields become descriptions in [`super::schema`], and the examples
//! are what the message about a missing key shows.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

mod cpu;
mod devices;
mod network;

pub use cpu::{
    ArmRegisterModifier, CpuConfig, CpuidModifier, CpuidRegister, CpuidRegisterModifier, CustomCpu, MsrModifier,
    VcpuFeature,
};
pub use devices::{
    Balloon, CacheType, Console, ConsoleDevice, ConsolePort, ConsoleTarget, Drive, Entropy, IoEngine, MemoryHotplug,
    Metrics, MmdsConfig, MmdsVersion, Pmem, RateLimiter, TokenBucket, Vsock,
};
pub use network::{NetSocket, NetworkInterface, Passt};

/// A microVM: what it boots, how large it is and which devices it has.
///
/// Follows Firecracker's config-file schema, so its files work unchanged; relative paths start at the current
/// directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmConfig {
    /// What to boot.
    #[schemars(example = example(r#"{ "kernel_image_path": "vmlinux" }"#))]
    pub boot_source: BootSource,
    /// Number of vCPUs, memory and other properties of the machine itself.
    #[serde(default)]
    pub machine_config: MachineConfig,
    /// CPU features offered to the guest: a file with a custom CPU template, or the template itself.
    pub cpu_config: Option<CpuConfig>,
    /// Block devices.
    #[serde(default)]
    pub drives: Vec<Drive>,
    /// Persistent memory devices.
    #[serde(default)]
    pub pmem: Vec<Pmem>,
    /// Network devices.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// A source of random numbers for the guest.
    pub entropy: Option<Entropy>,
    /// A device that gives guest memory back to the host.
    pub balloon: Option<Balloon>,
    /// Memory that can be added while the guest runs.
    pub memory_hotplug: Option<MemoryHotplug>,
    /// The metadata service that the guest reaches over its network.
    pub mmds_config: Option<MmdsConfig>,
    /// Where log records go; without it the program's own logging stays as it is.
    pub logger: Option<Logger>,
    /// Where metrics go.
    pub metrics: Option<Metrics>,
    /// Where the first serial port leads; without it to standard input and output.
    pub serial: Option<Serial>,
    /// Which device is the guest's console, and further byte channels between host and guest.
    pub console: Option<Console>,
    /// What a reboot of the guest does; without it "restart".
    pub on_reboot: Option<OnReboot>,
}

impl VmConfig {
    /// A config of defaults that boots this kernel file.
    pub fn from_kernel(path: impl Into<PathBuf>) -> Self {
        Self {
            boot_source: BootSource {
                kernel_image_path: Some(path.into()),
                ..BootSource::default()
            },
            ..Self::default()
        }
    }

    /// A config of defaults that boots this kernel bundle.
    pub fn from_bundle(path: impl Into<PathBuf>) -> Self {
        Self {
            boot_source: BootSource {
                kernel_bundle: Some(path.into()),
                ..BootSource::default()
            },
            ..Self::default()
        }
    }
}

/// What to boot: either a kernel file or a kernel bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// Kernel file: ELF or bzImage on x86_64, Image (also gzip-compressed) on aarch64. Either this or `kernel_bundle`.
    #[schemars(example = &"vmlinux")]
    pub kernel_image_path: Option<PathBuf>,
    /// Initial RAM file system that goes with `kernel_image_path`.
    #[schemars(example = &"initrd.cpio")]
    pub initrd_path: Option<PathBuf>,
    /// Kernel command line, printable ASCII; without it the default of the architecture. What stands after `--` goes
    /// to the guest's init.
    #[schemars(example = &"console=ttyS0 reboot=k panic=1")]
    pub boot_args: Option<String>,
    /// Folder with a kernel bundle: kernel, initramfs and manifest. Replaces `kernel_image_path` and `initrd_path`.
    #[schemars(example = &"target/bundle")]
    pub kernel_bundle: Option<PathBuf>,
    /// A command that the guest runs instead of its own init, program first; its exit code becomes the VM's. Only
    /// with `kernel_bundle`.
    #[serde(default)]
    #[schemars(example = ["/bin/uname", "-a"])]
    pub command: Vec<String>,
    /// How kernel bytes get into guest memory; without it "auto".
    pub kernel_load: Option<KernelLoad>,
    /// By which protocol an ELF kernel that knows several is entered; without it "auto".
    pub protocol: Option<Protocol>,
}

/// How kernel bytes get into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KernelLoad {
    /// What measured best.
    Auto,
    /// Copy all of them.
    Copy,
    /// Map the file privately, without a copy.
    Map,
}

/// By which protocol an ELF kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// What measured best among those that the kernel offers.
    Auto,
    /// The 64-bit Linux boot protocol.
    Linux64,
    /// Xen's PVH.
    Pvh,
}

/// Properties of the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Virtual CPUs. KVM's own limit applies too.
    #[schemars(example = 1, range(min = 1, max = 8192))]
    pub vcpu_count: u64,
    /// Guest memory in MiB.
    #[schemars(example = 256, range(min = 32, max = 67_108_864))]
    pub mem_size_mib: u64,
    /// Two threads per core; x86_64 only.
    #[serde(default)]
    pub smt: bool,
    /// Keep track of the memory pages that the guest writes, for snapshots of differences.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Which host pages back guest memory; without it "Transparent".
    pub huge_pages: Option<HugePages>,
    /// How the guest reaches virtio devices; without it "Pci", unless the command line has pci=off.
    pub virtio_transport: Option<VirtioTransport>,
    /// One of Firecracker's static CPU templates, which it has deprecated.
    pub cpu_template: Option<CpuTemplate>,
    /// Socket at which a debugger is served.
    #[schemars(example = &"gdb.socket")]
    pub gdb_socket_path: Option<PathBuf>,
}

impl Default for MachineConfig {
    /// One vCPU and 128 MiB, as in Firecracker.
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            track_dirty_pages: false,
            huge_pages: None,
            virtio_transport: None,
            cpu_template: None,
            gdb_socket_path: None,
        }
    }
}

/// How a guest reaches virtio devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VirtioTransport {
    /// By a window of registers and an interrupt line each.
    Mmio,
    /// As functions on a PCI bus, with MSI-X.
    Pci,
}

/// Which host pages back guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HugePages {
    /// Ordinary pages only.
    None,
    /// Transparent huge pages where the host gives them on request.
    Transparent,
    /// Reserved 2 MiB pages (hugetlbfs).
    #[serde(rename = "2M")]
    Hugetlb2M,
}

/// Firecracker's static CPU templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CpuTemplate {
    /// Intel, as AWS C3.
    C3,
    /// Intel, as AWS T2.
    T2,
    /// Intel, as AWS T2, for migration between Skylake and Cascade Lake.
    T2S,
    /// Intel Cascade Lake and later, as T2.
    T2CL,
    /// AMD, as T2.
    T2A,
    /// Arm Neoverse V1 made to look like N1.
    V1N1,
    /// No template.
    None,
}

/// Where log records go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// File or FIFO, appended to; without it standard error.
    #[schemars(example = &"vm.log")]
    pub log_path: Option<PathBuf>,
    /// The most verbose level that is kept, in any case: Off, Error, Warn (or Warning), Info, Debug or Trace; without
    /// it Info.
    #[schemars(example = &"Info")]
    pub level: Option<String>,
    /// Whether each line names its level; without it false.
    pub show_level: Option<bool>,
    /// Whether each line names the source file and line; without it false.
    pub show_log_origin: Option<bool>,
    /// Keep only records whose module path starts so.
    #[schemars(example = &"coracle::vm")]
    pub module: Option<String>,
}

/// Where the first serial port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// Where guest output goes; without it to standard output.
    pub output: Option<SerialOutput>,
    /// What the guest reads; without it standard input.
    pub input: Option<SerialInput>,
    /// Firecracker's name for `"output": {"file": …}`.
    #[schemars(example = &"serial.log")]
    pub serial_out_path: Option<PathBuf>,
    /// Limit on the bytes of output.
    pub rate_limiter: Option<TokenBucket>,
}

/// Where a serial port's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SerialOutput {
    /// The standard output of the VMM.
    Stdout,
    /// Nowhere.
    None,
    /// A new pseudo-terminal, which is the input as well.
    Pty,
    /// A file, truncated first.
    File(PathBuf),
}

/// What the guest reads from its serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SerialInput {
    /// The standard input of the VMM.
    Stdin,
    /// Nothing.
    None,
    /// A file or FIFO.
    File(PathBuf),
}

/// What a reboot of the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// Restarts the guest in the same process.
    Restart,
    /// Ends the VM.
    Exit,
}

/// An example that is no plain literal, from its JSON.
fn example(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap_or_default()
}
