//! A VM as a value: one owner, one control thread, one state machine.
//!
//! ```text
//!          start            pause
//! Created ───────▶ Running ───────▶ Paused
//!    │              │ ▲  │ ◀─────── │
//!    │     reset:   └─┘  │  resume  │
//!    │   a new machine   │          │
//!    └────── stop ───────┴── stop ──┴──▶ Stopped(Outcome)
//! ```
//!
//! The control thread owns the machine. It never holds a lock that a vCPU can want, and everything reaches it through
//! one channel: the owner's requests, a vCPU's end, the guest's reports. Dropping the [`Vm`] stops it; when that
//! returns, no thread, descriptor or mapping of it is left.
use crate::{
    config::spec::OnReboot,
    console::{Size, terminal::Escape},
    device::Handle,
    event::{Event, Outcome},
    machine::Machine,
    vcpu::Exit,
};
use coracle_devices::{bus::Effect, virtio::balloon};
use coracle_protocol::report::Report;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Events that a subscriber may leave unread.
const EVENTS: usize = 1024;

/// A request to a VM that its state does not allow.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The state does not allow it.
    #[error("cannot {operation} a VM that is {state}")]
    Refused {
        /// What was asked for.
        operation: Operation,
        /// The state of the VM.
        state: &'static str,
    },
    /// This machine has no such part.
    #[error("this machine has no {0}")]
    Absent(&'static str),
    /// This machine has no device of that kind and name.
    #[error("this machine has no {kind} called {id:?}; its config names them")]
    NoDevice {
        /// "drive" or "network card".
        kind: &'static str,
        /// The name.
        id: String,
    },
    /// The files of a drive cannot be looked at.
    #[error("cannot tell how long drive {id:?} is; it keeps its length")]
    Capacity {
        /// The drive.
        id: String,
        /// Why not.
        source: io::Error,
    },
}

/// What an owner may ask of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Enter the guest for the first time.
    Start,
    /// Take all vCPUs out of the guest.
    Pause,
    /// Enter the guest again.
    Resume,
    /// Press the power button.
    PowerButton,
    /// End the VM at once.
    Stop,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::PowerButton => "press the power button of",
            Self::Stop => "stop",
        })
    }
}

/// What reaches the control thread. `generation` counts machines: news of one that is gone is ignored.
pub(crate) enum Note {
    Request(Operation, Sender<Result<(), VmError>>),
    VcpuDone { generation: u64, exit: Exit },
    Report { generation: u64, report: Report },
    Panicked(String),
    Escape(Escape),
}

/// Builds the machine of a generation.
pub(crate) type Rebuild = Box<dyn FnMut(u64) -> Result<Machine, String> + Send>;

/// A microVM. Methods may be called from any thread.
pub struct Vm {
    notes: Sender<Note>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pty: Option<PathBuf>,
    console_size: Arc<Size>,
    devices: Vec<Handle>,
}

#[derive(Default)]
struct Shared {
    subscribers: Mutex<Vec<SyncSender<Event>>>,
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Tells all subscribers. One that does not read loses events rather than hold up the VM.
    fn publish(&self, event: &Event) {
        lock(&self.subscribers).retain(|subscriber| match subscriber.try_send(event.clone()) {
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => {
                log::debug!("an event is lost: its subscriber has {EVENTS} unread");
                true
            }
            Ok(()) => true,
        });
    }
}

impl Vm {
    /// Starts the control thread of a machine that is built and paused.
    pub(crate) fn spawn(
        machine: Machine,
        rebuild: Rebuild,
        on_reboot: OnReboot,
        (notes, inbox): (Sender<Note>, Receiver<Note>),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let control = Control {
            shared: shared.clone(),
            rebuild,
            on_reboot,
            generation: 0,
            panic: None,
            result: None,
        };
        let thread = thread::Builder::new()
            .name("vm-control".into())
            .spawn(move || control.run(State::Created(machine), &inbox))?;
        Ok(Self {
            notes,
            shared,
            thread: Some(thread),
            pty: None,
            console_size: Arc::default(),
            devices: Vec::new(),
        })
    }

    /// Names the pseudo-terminal of its console, and what keeps the size of that.
    pub(crate) fn with_console(mut self, pty: Option<PathBuf>, size: Arc<Size>) -> Self {
        (self.pty, self.console_size) = (pty, size);
        self
    }

    /// The pseudo-terminal that the serial port leads to, if the spec asked for one.
    pub fn console_pty(&self) -> Option<&Path> {
        self.pty.as_deref()
    }

    /// Tells the guest the size of the operator's terminal, in characters. Without a virtio console nothing hears of it.
    pub fn resize_console(&self, columns: u16, rows: u16) {
        self.console_size.set(columns, rows);
    }

    /// Names the devices that can be changed.
    pub(crate) fn with_devices(mut self, devices: Vec<Handle>) -> Self {
        self.devices = devices;
        self
    }

    /// The balloon, if the spec has one: its target, what the guest says of its memory, requests for unused pages.
    pub fn balloon(&self) -> Option<&Arc<balloon::Handle>> {
        self.devices.iter().find_map(|device| match device {
            Handle::Balloon(handle) => Some(handle),
            _ => None,
        })
    }

    /// Looks again how long the files of a drive are, and shows the guest what there is; gives the bytes.
    pub fn resize_drive(&self, id: &str) -> Result<u64, VmError> {
        let capacity = self.devices.iter().find_map(|device| match device {
            Handle::Disk(name, capacity) if name == id => lock(capacity).clone(),
            _ => None,
        });
        let capacity = capacity.ok_or_else(|| VmError::NoDevice {
            kind: "drive",
            id: id.to_owned(),
        })?;
        capacity.refresh().map_err(|source| VmError::Capacity {
            id: id.to_owned(),
            source,
        })
    }

    /// Plugs the cable of a network card, or pulls it out.
    pub fn set_link(&self, id: &str, plugged: bool) -> Result<(), VmError> {
        let link = self.devices.iter().find_map(|device| match device {
            Handle::Cable(name, link) if name == id => Some(link),
            _ => None,
        });
        let link = link.ok_or_else(|| VmError::NoDevice {
            kind: "network card",
            id: id.to_owned(),
        })?;
        link.set(plugged);
        Ok(())
    }

    /// Enters the guest.
    pub fn start(&self) -> Result<(), VmError> {
        self.ask(Operation::Start)
    }

    /// Takes all vCPUs out of the guest; returns when they are.
    pub fn pause(&self) -> Result<(), VmError> {
        self.ask(Operation::Pause)
    }

    /// Enters the guest again.
    pub fn resume(&self) -> Result<(), VmError> {
        self.ask(Operation::Resume)
    }

    /// Presses the power button. What comes of it is up to the guest.
    pub fn power_button(&self) -> Result<(), VmError> {
        self.ask(Operation::PowerButton)
    }

    /// Ends the VM at once, as pulling the plug does; returns when nothing of it is left.
    pub fn stop(&self) -> Outcome {
        // A VM that has ended by itself refuses, and has an outcome.
        let _ = self.ask(Operation::Stop);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&self) -> Outcome {
        let mut outcome = lock(&self.shared.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.shared.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end, up to `limit`.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Outcome> {
        let until = Instant::now() + limit;
        let mut outcome = lock(&self.shared.outcome);
        while outcome.is_none() {
            let left = until.checked_duration_since(Instant::now())?;
            outcome = self
                .shared
                .ended
                .wait_timeout(outcome, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        outcome.clone()
    }

    /// What happens from now on. A subscriber that leaves more than 1024 events unread loses the newest.
    pub fn events(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(EVENTS);
        lock(&self.shared.subscribers).push(sender);
        receiver
    }

    fn ask(&self, operation: Operation) -> Result<(), VmError> {
        let gone = || VmError::Refused {
            operation,
            state: "stopped",
        };
        let (reply, answer) = channel();
        self.notes.send(Note::Request(operation, reply)).map_err(|_| gone())?;
        // The control thread drops what it has not answered when it ends.
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("outcome", &*lock(&self.shared.outcome))
            .finish_non_exhaustive()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the VM's control thread panicked");
        }
    }
}

/// A state owns what exists then.
enum State {
    Created(Machine),
    Running(Machine),
    Paused(Machine),
    Stopped(Outcome),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Created(_) => "created but not started",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// The control thread.
struct Control {
    shared: Arc<Shared>,
    rebuild: Rebuild,
    on_reboot: OnReboot,
    generation: u64,
    /// The message of a panic of the present machine's kernel.
    panic: Option<String>,
    /// What PID 1 has said of the end.
    result: Option<Outcome>,
}

impl Control {
    fn run(mut self, mut state: State, inbox: &Receiver<Note>) {
        let outcome = loop {
            if let State::Stopped(outcome) = state {
                break outcome;
            }
            state = match inbox.recv() {
                Ok(note) => self.take(state, note),
                Err(_) => State::Stopped(Outcome::Stopped),
            };
        };
        // The machine is gone; the console drains next. Only then is the VM over for its owner.
        let shared = self.shared.clone();
        drop(self);
        shared.publish(&Event::Ended(outcome.clone()));
        lock(&shared.subscribers).clear();
        *lock(&shared.outcome) = Some(outcome);
        shared.ended.notify_all();
    }

    fn take(&mut self, state: State, note: Note) -> State {
        match note {
            Note::Request(operation, reply) => {
                let (state, answer) = self.obey(state, operation);
                // Whoever asked may have given up.
                let _ = reply.send(answer);
                state
            }
            Note::Escape(Escape::Stop) => self.obey(state, Operation::Stop).0,
            Note::Escape(Escape::PowerButton) => self.obey(state, Operation::PowerButton).0,
            Note::VcpuDone { generation, exit } if generation == self.generation => self.end(state, exit),
            Note::Report { generation, report } if generation == self.generation => {
                self.report(report);
                state
            }
            Note::VcpuDone { .. } | Note::Report { .. } => state,
            Note::Panicked(message) => {
                self.shared.publish(&Event::Panicked(message.clone()));
                self.panic = Some(message);
                state
            }
        }
    }

    fn obey(&self, state: State, operation: Operation) -> (State, Result<(), VmError>) {
        match (operation, state) {
            (Operation::Start, State::Created(mut machine)) | (Operation::Resume, State::Paused(mut machine)) => {
                machine.resume();
                self.shared.publish(&Event::Running);
                (State::Running(machine), Ok(()))
            }
            (Operation::Pause, State::Running(mut machine)) => {
                machine.pause();
                self.shared.publish(&Event::Paused);
                (State::Paused(machine), Ok(()))
            }
            (Operation::PowerButton, State::Running(machine)) => {
                let answer = if machine.press_power_button() {
                    self.shared.publish(&Event::PowerButton);
                    Ok(())
                } else {
                    Err(VmError::Absent("power button"))
                };
                (State::Running(machine), answer)
            }
            (Operation::Stop, State::Created(_) | State::Running(_) | State::Paused(_)) => {
                (State::Stopped(Outcome::Stopped), Ok(()))
            }
            (operation, state) => {
                let name = state.name();
                (state, Err(VmError::Refused { operation, state: name }))
            }
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Ready(timings) => self.shared.publish(&Event::Ready(timings)),
            Report::Exit { code } => self.result = Some(Outcome::Exited(code)),
            Report::Failed { reason } => self.result = Some(Outcome::GuestFailed(reason)),
        }
    }

    /// A vCPU is done, and with it the machine.
    fn end(&mut self, state: State, exit: Exit) -> State {
        drop(state);
        let panic = self.panic.take();
        let outcome = match (exit, panic) {
            (Exit::Failed(reason), _) => Outcome::Failed(format!(
                "KVM could not run the guest: {reason}; `coracle doctor` shows what it can do"
            )),
            (_, Some(message)) => Outcome::Panicked(message),
            (Exit::Asked(Effect::Panic), None) => Outcome::Panicked("no message reached the console".into()),
            (Exit::TripleFault, None) => Outcome::TripleFault,
            (Exit::Asked(_), None) if self.result.is_some() => self.result.take().unwrap_or(Outcome::PoweredOff),
            (Exit::Asked(Effect::Reset), None) if self.on_reboot == OnReboot::Restart => return self.reboot(),
            (Exit::Asked(Effect::Reset), None) => Outcome::Reset,
            (Exit::Asked(_), None) => Outcome::PoweredOff,
        };
        State::Stopped(outcome)
    }

    fn reboot(&mut self) -> State {
        self.generation += 1;
        self.shared.publish(&Event::Rebooting(self.generation));
        match (self.rebuild)(self.generation) {
            Ok(mut machine) => {
                machine.resume();
                self.shared.publish(&Event::Running);
                State::Running(machine)
            }
            Err(reason) => State::Stopped(Outcome::Failed(format!("cannot restart the guest: {reason}"))),
        }
    }
}
