//! A machine that can be built: what [`super::check`] makes of a config. A spec that exists is valid.
use std::path::PathBuf;

mod devices;
mod network;

pub use devices::{
    BalloonSpec, BlockSpec, BucketSpec, LimitsSpec, PortSpec, PortTarget, PortsSpec, RngSpec, VsockSpec,
};
pub use network::{Forward, NetBackend, NetSpec};

/// One microVM. Nothing has been opened or created yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// What to boot.
    pub boot: BootSpec,
    /// Virtual CPUs, at least 1. The upper limit is KVM's and is asked when the VM is built.
    pub vcpus: u32,
    /// Guest memory.
    pub memory: MemorySpec,
    /// Where the first serial port leads.
    pub serial: SerialSpec,
    /// How the guest reaches virtio devices.
    pub virtio_transport: VirtioTransport,
    /// Which device is the guest's console. Either leads where [`VmSpec::serial`] says.
    pub console: ConsoleSpec,
    /// Virtio devices, in the order in which the guest finds them.
    pub devices: Vec<DeviceSpec>,
    /// What a reboot of the guest does.
    pub on_reboot: OnReboot,
    /// Where log records go; `None` leaves the caller's logger alone.
    pub logger: Option<LoggerSpec>,
}

/// How a guest reaches virtio devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VirtioTransport {
    /// By a window of registers and an interrupt line each.
    Mmio,
    /// As functions on a PCI bus, with MSI-X.
    #[default]
    Pci,
}

/// One virtio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A disk.
    Block(BlockSpec),
    /// A source of random numbers.
    Rng(RngSpec),
    /// A balloon.
    Balloon(BalloonSpec),
    /// Byte channels with names.
    Ports(PortsSpec),
    /// Sockets between host and guest.
    Vsock(VsockSpec),
    /// A network card.
    Net(NetSpec),
}

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec {
    /// Where the kernel and the initrd come from.
    pub source: BootSource,
    /// Kernel command line; `None` means the default of the architecture.
    pub cmdline: Option<String>,
    /// What is added to the command line for the kernel to find its root file system.
    pub root: Option<String>,
    /// A command for the guest's PID 1 to run; its exit code becomes the VM's. Needs a kernel bundle, whose PID 1
    /// knows how.
    pub command: Vec<String>,
    /// How kernel bytes get into guest memory.
    pub load: KernelLoad,
    /// By which protocol an ELF kernel that knows several is entered.
    pub protocol: Protocol,
}

/// Where the kernel and the initrd come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSource {
    /// Plain files.
    Files {
        /// ELF or bzImage on x86_64, Image (also gzip-compressed) on aarch64.
        kernel: PathBuf,
        /// Initial RAM file system.
        initrd: Option<PathBuf>,
    },
    /// A kernel bundle: a folder with `manifest.json`, or one with such a folder per architecture.
    Bundle(PathBuf),
}

/// How kernel bytes get into guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KernelLoad {
    /// What measured best.
    #[default]
    Auto,
    /// Copy all of them, into huge pages where there are any.
    Copy,
    /// Map the file's pages privately: no copy, shared between guests until written.
    Map,
}

/// By which protocol an ELF kernel is entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What measured best among those that the kernel offers.
    #[default]
    Auto,
    /// The 64-bit Linux boot protocol.
    Linux64,
    /// Xen's PVH.
    Pvh,
}

/// Guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySpec {
    /// Bytes; a multiple of 1 MiB (2 MiB with [`HugePages::Hugetlb2M`]), at least 32 MiB.
    pub bytes: u64,
    /// Which pages back it.
    pub huge_pages: HugePages,
}

/// Which host pages back guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Ordinary pages only.
    None,
    /// Transparent huge pages where the host gives them on request.
    #[default]
    Transparent,
    /// Reserved 2 MiB pages (hugetlbfs); building fails where the pool is too small.
    Hugetlb2M,
}

/// Where the first serial port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SerialSpec {
    /// What the guest reads.
    pub input: SerialInput,
    /// Where guest output goes.
    pub output: SerialOutput,
}

/// What the guest reads from its serial port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialInput {
    /// The standard input of this process; a terminal is put into raw mode meanwhile.
    #[default]
    Stdin,
    /// Nothing.
    None,
    /// A file or FIFO.
    File(PathBuf),
}

/// Where a serial port's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialOutput {
    /// The standard output of this process.
    #[default]
    Stdout,
    /// Nowhere.
    None,
    /// A file, truncated first.
    File(PathBuf),
    /// A new pseudo-terminal, whose name is logged and sent as an event; it also replaces the input.
    Pty,
}

/// Which device is the guest's console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsoleSpec {
    /// A virtio console (`hvc0`) beside the serial port, which then serves until a driver for the former is there.
    pub virtio: bool,
}

/// What a reboot of the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnReboot {
    /// Restarts the guest in the same process.
    #[default]
    Restart,
    /// Ends the VM.
    Exit,
}

/// Where log records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggerSpec {
    /// The file, appended to; `None` means standard error.
    pub path: Option<PathBuf>,
    /// The most verbose level that is kept.
    pub level: log::LevelFilter,
    /// Whether each line names its level.
    pub show_level: bool,
    /// Whether each line names the source file and line.
    pub show_origin: bool,
    /// Keep only records whose module path starts so.
    pub module: Option<String>,
}
