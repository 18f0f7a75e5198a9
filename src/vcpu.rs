//! One vCPU, one thread, one state machine.
//!
//! ```text
//!            Resume                    effect, failure, Stop
//! Paused ───────────────▶ Running ───────────────────────────▶ Done
//!    ▲                       │
//!    └───────── Pause ───────┘        (Paused ── Stop ──▶ Done)
//! ```
//!
//! The thread takes no lock and never waits for another vCPU. A vCPU that is done has told its owner why; the owner
//! decides what becomes of the others.
#![allow(unsafe_code, reason = "signals a thread and duplicates the vCPU's descriptor")]
use coracle_arch::{Arch, Host};
use coracle_devices::bus::{Bus, Effect};
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use std::{
    io,
    os::{fd::AsRawFd, unix::thread::JoinHandleExt},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The two address spaces that a guest can poke; `pio` stays empty on aarch64.
#[derive(Default)]
pub(crate) struct Buses {
    /// Memory-mapped devices.
    pub(crate) mmio: Bus,
    /// x86 ports.
    pub(crate) pio: Bus,
}

/// What the owner may ask of a vCPU.
#[derive(Debug)]
enum Command {
    /// Enter the guest.
    Resume,
    /// Leave the guest; answered on the channel once out.
    Pause(Sender<()>),
    /// Leave for good.
    Stop,
}

/// Why a vCPU left the guest for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The guest, or the owner, asked for it.
    Asked(Effect),
    /// The guest's CPU gave up: on x86 a fault within a fault within a fault.
    TripleFault,
    /// KVM gave an exit that this VMM does not serve, or `KVM_RUN` failed.
    Failed(String),
}

/// Called on the vCPU's thread, once, with the reason, when it is done.
pub(crate) type OnExit = Box<dyn FnOnce(Exit) + Send>;

enum State {
    Paused,
    Running,
    Done(Exit),
}

/// The half that lives on the vCPU's thread.
struct Vcpu {
    fd: VcpuFd,
    buses: Arc<Buses>,
    commands: Receiver<Command>,
}

impl Vcpu {
    fn run(&mut self) -> Exit {
        let mut state = State::Paused;
        loop {
            state = match state {
                State::Paused => self.wait(),
                State::Running => self.guest(),
                State::Done(exit) => return exit,
            }
        }
    }

    /// Runs guest code until a command arrives or the guest ends the story.
    fn guest(&mut self) -> State {
        loop {
            let effect = match self.fd.run() {
                Ok(VcpuExit::MmioRead(addr, data)) => {
                    self.buses.mmio.read(addr, data);
                    Effect::None
                }
                Ok(VcpuExit::MmioWrite(addr, data)) => self.buses.mmio.write(addr, data),
                Ok(VcpuExit::IoIn(port, data)) => port_read(&self.buses.pio, port, data),
                Ok(VcpuExit::IoOut(port, data)) => port_write(&self.buses.pio, port, data),
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Effect::Reset,
                Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => Effect::Panic,
                // An in-kernel interrupt controller keeps an idle HLT to itself: this one has nothing to wake it.
                Ok(VcpuExit::SystemEvent(..) | VcpuExit::Hlt) => Effect::Shutdown,
                Ok(VcpuExit::Shutdown) => return State::Done(Exit::TripleFault),
                Ok(other) => {
                    let exit = format!("{other:?}");
                    return State::Done(Exit::Failed(self.describe(&exit)));
                }
                Err(e) if e.errno() == libc::EAGAIN => Effect::None,
                Err(e) if e.errno() == libc::EINTR => return self.interrupted(),
                Err(e) => return State::Done(Exit::Failed(self.describe(&e.to_string()))),
            };
            if effect != Effect::None {
                return State::Done(Exit::Asked(effect));
            }
        }
    }

    /// The exit with what KVM says of an internal error, for a bug report.
    fn describe(&mut self, exit: &str) -> String {
        let run = self.fd.get_kvm_run();
        if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
            return exit.to_owned();
        }
        // SAFETY: the exit reason says that `internal` is the valid member.
        let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
        format!("{exit} (suberror {suberror}: 1 is an instruction that this KVM cannot emulate)")
    }

    /// A kick. The flag is cleared before the queue is read, so a later kick is never lost.
    fn interrupted(&mut self) -> State {
        self.fd.set_kvm_immediate_exit(0);
        match self.commands.try_recv() {
            Ok(command) => self.obey(command),
            Err(TryRecvError::Empty) => State::Running,
            Err(TryRecvError::Disconnected) => State::Done(Exit::Asked(Effect::Shutdown)),
        }
    }

    fn wait(&mut self) -> State {
        match self.commands.recv() {
            Ok(command) => self.obey(command),
            Err(_) => State::Done(Exit::Asked(Effect::Shutdown)),
        }
    }

    fn obey(&self, command: Command) -> State {
        if matches!(command, Command::Pause(_)) {
            Host::paused(&self.fd);
        }
        obey(command)
    }
}

fn obey(command: Command) -> State {
    match command {
        Command::Resume => State::Running,
        Command::Pause(done) => {
            // Whoever asked may have given up; the pause holds all the same.
            let _ = done.send(());
            State::Paused
        }
        Command::Stop => State::Done(Exit::Asked(Effect::Shutdown)),
    }
}

/// Serves `in` and `ins`; a string transfer comes as many bytes for one port.
fn port_read(pio: &Bus, port: u16, data: &mut [u8]) -> Effect {
    if data.len() <= 4 {
        pio.read(port.into(), data);
    } else {
        data.chunks_mut(1).for_each(|byte| pio.read(port.into(), byte));
    }
    Effect::None
}

/// Serves `out` and `outs`. Ports of this machine are a byte wide, so a long transfer is a string of bytes.
fn port_write(pio: &Bus, port: u16, data: &[u8]) -> Effect {
    if data.len() <= 4 {
        return pio.write(port.into(), data);
    }
    data.chunks(1)
        .map(|byte| pio.write(port.into(), byte))
        .find(|effect| *effect != Effect::None)
        .unwrap_or(Effect::None)
}

/// The owner's half. Dropping it stops the vCPU and joins its thread.
pub(crate) struct VcpuHandle {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    /// A second mapping of the same `kvm_run` page, used for `immediate_exit` alone.
    run_page: VcpuFd,
}

impl VcpuHandle {
    /// Starts the thread, paused.
    pub(crate) fn spawn(index: u32, vm: &VmFd, fd: VcpuFd, buses: Arc<Buses>, on_exit: OnExit) -> io::Result<Self> {
        install_kick_handler()?;
        let run_page = second_mapping(vm, &fd)?;
        let (sender, commands) = channel();
        let mut vcpu = Vcpu { fd, buses, commands };
        let thread = thread::Builder::new().name(format!("vcpu{index}")).spawn(move || {
            let exit = vcpu.run();
            // The descriptor is closed before anyone can hear that this vCPU is done.
            drop(vcpu);
            on_exit(exit);
        })?;
        Ok(Self {
            commands: sender,
            thread: Some(thread),
            run_page,
        })
    }

    /// Enters the guest.
    pub(crate) fn resume(&mut self) {
        self.send(Command::Resume);
    }

    /// Asks for a pause; the receiver hears when the vCPU is out of the guest (or gone).
    pub(crate) fn pause(&mut self) -> Receiver<()> {
        let (done, paused) = channel();
        self.send(Command::Pause(done));
        paused
    }

    /// Asks the vCPU to leave for good; `drop` waits for it.
    pub(crate) fn stop(&mut self) {
        self.send(Command::Stop);
    }

    /// Sends a command. The flag comes before the signal: either `KVM_RUN` sees the flag on entry or the signal ends
    /// it, so the command cannot be missed in between.
    fn send(&mut self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.run_page.set_kvm_immediate_exit(1);
            if let Some(thread) = &self.thread {
                // SAFETY: the JoinHandle is alive, so its pthread_t is valid; the signal has a handler that does nothing.
                unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
            }
        }
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a vCPU thread panicked");
        }
    }
}

/// Waits until all have answered. A vCPU that is done has dropped its end, which counts as an answer.
pub(crate) fn wait_all(paused: Vec<Receiver<()>>) {
    for answer in paused {
        while let Err(RecvTimeoutError::Timeout) = answer.recv_timeout(Duration::from_secs(10)) {
            log::warn!("a vCPU has not left the guest for 10 s");
        }
    }
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes the kick signal harmless. Idempotent; every VM of the process shares the handler.
fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    vmm_sys_util::signal::register_signal_handler(kick_signal(), nothing)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// Maps the vCPU's `kvm_run` page once more.
fn second_mapping(vm: &VmFd, fd: &VcpuFd) -> io::Result<VcpuFd> {
    // SAFETY: duplicates a descriptor that is open for as long as `fd` is borrowed.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh duplicate of a vCPU's descriptor, owned by the value made from it.
    unsafe { vm.create_vcpu_from_rawfd(copy) }.map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

#[cfg(test)]
mod tests;
