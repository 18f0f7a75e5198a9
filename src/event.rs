//! What a VM tells its owner, and how it ends.
use coracle_protocol::report::Timings;

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest runs (again, after a pause).
    Running,
    /// All vCPUs are out of the guest.
    Paused,
    /// The guest's PID 1 is about to run its command.
    Ready(Timings),
    /// The guest's kernel panicked, with this message.
    Panicked(String),
    /// The guest reset itself and is started again; counts from 1.
    Rebooting(u64),
    /// The power button was pressed.
    PowerButton,
    /// The VM is over; nothing follows.
    Ended(Outcome),
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off.
    PoweredOff,
    /// The guest's command ended with this exit code, and the guest powered off.
    Exited(u8),
    /// The guest reset itself, and the spec says that this ends the VM.
    Reset,
    /// The owner stopped it.
    Stopped,
    /// The guest's kernel panicked, with this message.
    Panicked(String),
    /// The guest's CPU gave up on a triple fault.
    TripleFault,
    /// PID 1 of the guest could not do its work.
    GuestFailed(String),
    /// The VMM or KVM failed; the message says what and what to do.
    Failed(String),
}

impl Outcome {
    /// The exit code of a process that ran this VM: the command's own, 0 for an orderly end, else one of its own.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Reset | Self::Stopped => 0,
            Self::Exited(code) => *code,
            Self::Failed(_) => 1,
            Self::Panicked(_) => 158,
            Self::TripleFault => 159,
            Self::GuestFailed(_) => 160,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Exited(code) => write!(f, "the guest's command exited with code {code}"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Stopped => f.write_str("the VM was stopped"),
            Self::Panicked(message) => write!(f, "the guest's kernel panicked: {message}"),
            Self::TripleFault => f.write_str("the guest's CPU shut down on a triple fault"),
            Self::GuestFailed(reason) => write!(f, "PID 1 of the guest failed: {reason}"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}
