//! From a checked spec to a VM that is ready to start. The first place that opens anything.
pub use crate::device::DeviceError;
use crate::{
    board::{Board, BoardError},
    boot::{Boot, BootError},
    config::spec::{VirtioTransport, VmSpec},
    console::{Console, ConsoleError},
    device::{self, Backend},
    kvm::{self, KvmError},
    machine::Machine,
    memory::{GuestRam, MemoryError},
    vcpu::VcpuHandle,
    vm::{Note, Vm},
};
use coracle_arch::{Arch, ArchError, Description, Host};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread,
};

/// Why a VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel or the initrd cannot be used.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A platform device.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// A virtio device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The architecture's set-up.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// A thread or a descriptor.
    #[error("cannot start a thread of the VM; raise the limits on threads and open files")]
    Thread(#[from] io::Error),
}

/// Opens what the spec names and builds the first machine. The guest runs after [`Vm::start`].
pub fn build(spec: VmSpec) -> Result<Vm, BuildError> {
    let (notes, inbox) = channel();
    let on_reboot = spec.on_reboot;
    let boot = Boot::open(&spec.boot, spec.memory, spec.console)?;
    let console = Console::open(
        &spec.serial,
        spec.console,
        forward(&notes, Note::Panicked),
        forward(&notes, Note::Escape),
    )?;
    let (pty, size) = (console.pty().cloned(), console.size().clone());
    let devices = device::open(&spec.devices)?;
    let handles = devices.iter().filter_map(|device| device.handle()).collect();
    let blueprint = Blueprint {
        spec,
        boot,
        console,
        devices,
        notes: notes.clone(),
    };
    let machine = blueprint.machine(0)?;
    let rebuild = Box::new(move |generation| blueprint.machine(generation).map_err(|e| chain(&e)));
    Ok(Vm::spawn(machine, rebuild, on_reboot, (notes, inbox))?
        .with_console(pty, size)
        .with_devices(handles))
}

/// A callback that makes a note for the control thread. A VM that is over hears nothing more.
fn forward<T: 'static>(notes: &Sender<Note>, note: fn(T) -> Note) -> Box<dyn Fn(T) + Send + Sync> {
    let notes = notes.clone();
    Box::new(move |value| drop(notes.send(note(value))))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source()).fold(error.to_string(), |line, e| format!("{line}: {e}"))
}

/// KVM's objects of one machine.
type Created = (Kvm, Arc<VmFd>, <Host as Arch>::Irqchip, Vec<VcpuFd>);

/// Interrupts for messages where their number is limited: of each PCI function on average, and beside. A driver that finds
/// too few for all of its queues lets them share two.
const MESSAGES_PER_FUNCTION: u32 = 4;
const SPARE_MESSAGES: u32 = 16;

/// What outlives a reset.
struct Blueprint {
    spec: VmSpec,
    boot: Boot,
    console: Console,
    devices: Vec<Box<dyn Backend>>,
    notes: Sender<Note>,
}

impl Blueprint {
    /// Fresh guest memory with the kernel and the initrd in it.
    fn load(&self) -> Result<(GuestRam, Option<Range<u64>>), BuildError> {
        let ram = GuestRam::reserve(self.spec.memory, Host::memory_ranges(self.spec.memory.bytes))?;
        let initrd = self.boot.load(&ram)?;
        Ok((ram, initrd))
    }

    /// Different messages that the PCI functions of a machine will send.
    fn messages(&self) -> u32 {
        match self.spec.virtio_transport {
            VirtioTransport::Mmio => 0,
            // The console is one more.
            VirtioTransport::Pci => u32::try_from(self.devices.len() + 1)
                .unwrap_or(u32::MAX)
                .saturating_mul(MESSAGES_PER_FUNCTION)
                .saturating_add(SPARE_MESSAGES)
                .min(1 << 16)
                .next_multiple_of(32),
        }
    }

    /// Builds one machine. Each line consumes what the lines above made.
    fn machine(&self, generation: u64) -> Result<Machine, BuildError> {
        let count = self.spec.vcpus;
        let messages = self.messages();
        // Creating a VM mostly waits (for the host's RCU, milliseconds of it) while loading copies: they go together.
        let (loaded, created) = thread::scope(|scope| {
            let loader = thread::Builder::new()
                .name("loader".into())
                .spawn_scoped(scope, || self.load());
            let created = create(count, messages);
            (loader.map(thread::ScopedJoinHandle::join), created)
        });
        let (kvm, vm, irqchip, cpus) = created?;
        let (ram, initrd) = loaded?.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ram.attach(&vm)?;

        let mut board = Board::new(&vm, ram.view(), self.spec.virtio_transport, messages);
        let notes = self.notes.clone();
        let on_report = move |report| drop(notes.send(Note::Report { generation, report }));
        board.platform(&self.console, self.boot.has_agent().then(|| Box::new(on_report) as _))?;
        if let Some(device) = self.console.plug_virtio()? {
            let thread = board.io_thread()?;
            board.virtio("console", device, vec![thread])?;
        }
        for device in &self.devices {
            device.plug(&mut board)?;
        }
        let board = board.freeze();

        let description = Description {
            protocol: self.boot.protocol(),
            cmdline: self.boot.cmdline(),
            initrd,
            ram: ram.ranges(),
            parts: &board.parts,
            rng_seed: random()?,
        };
        let entry = Host::describe(ram.view(), &irqchip, &cpus, &description)?;
        let mut vcpus = Vec::with_capacity(cpus.len());
        for (index, cpu) in (0..).zip(cpus) {
            Host::set_up_cpu(&kvm, &cpu, index, count, &entry)?;
            let notes = self.notes.clone();
            let on_exit = Box::new(move |exit| drop(notes.send(Note::VcpuDone { generation, exit })));
            vcpus.push(VcpuHandle::spawn(index, &vm, cpu, board.buses.clone(), on_exit)?);
        }
        Ok(Machine::new(
            vcpus,
            (board.power_button, board.virtio),
            irqchip,
            vm,
            ram,
        ))
    }
}

/// KVM's objects of a machine with `count` vCPUs, whose PCI functions send so many messages.
fn create(count: u32, messages: u32) -> Result<Created, BuildError> {
    let kvm = kvm::open(count)?;
    let vm = kvm::create_vm(&kvm)?;
    let (irqchip, cpus) = Host::create_cpus(&kvm, &vm, count, messages)?;
    Ok((kvm, Arc::new(vm), irqchip, cpus))
}

fn random() -> io::Result<[u8; 64]> {
    let mut seed = [0; 64];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    // The kernel never gives fewer for so few bytes.
    if filled == seed.len() {
        Ok(seed)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
