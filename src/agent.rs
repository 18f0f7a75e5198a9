//! A guest's agent as seen from the host: start processes, move files, set the network up, all with plain streams.
//!
//! [`Listening`] is there before the guest starts, for the guest dials; [`Listening::accept`] waits for it. Two threads
//! serve a listener and its agent: one takes connections (`doors`), one reads answers (`calls`). All methods block
//! their caller and may be used from several threads at once. The guest is hostile: what it says is bounded, and what it
//! does not say ends in a timeout.
//!
//! ```no_run
//! use coracle::agent::{ExecSpec, Key, Listening};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = Key::random();
//! let listening = Listening::new("/run/vm/v.sock", key)?;
//! // Start a VM with this vsock device, and `key.parameters()` on its kernel's command line.
//! let agent = listening.accept(Duration::from_secs(10))?;
//! let output = agent.exec(&ExecSpec::new(["uname", "-a"]))?.output()?;
//! assert_eq!(output.exit.code, 0);
//! # Ok(())
//! # }
//! ```
use coracle_protocol::{
    cmdline,
    sandbox::{Failed, GENERATION, Token, wire::WireError},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

mod calls;
mod doors;
mod files;
mod machine;
mod process;

pub use coracle_protocol::sandbox::{
    Hello, Reason, Timings,
    file::{Change, Changed, Entry, Kind as FileKind, Status, What},
    machine::{Clocks, Mount},
    network::{Dns, Hosts, Link, LinkStatus, PortStatus, Route},
    process::{Exited, Process as ProcessStatus, Window},
};
pub use files::{Download, Files, Upload, Watch, WriteOptions};
pub use process::{ExecSpec, Output, Process};

/// Why something did not come to pass in the guest.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket could not be made.
    #[error("cannot listen on {} for the guest's agent", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the guest's agent")]
    Thread(#[source] io::Error),
    /// The guest did not dial.
    #[error(
        "no agent has dialed within {0:?}: the guest needs a vsock device, and `{role}=agent` with this agent's key on \
         its kernel command line",
        role = cmdline::ROLE
    )]
    NotThere(Duration),
    /// Another generation.
    #[error(
        "the guest's agent speaks generation {0} of the protocol and this is {GENERATION}: make a new kernel bundle"
    )]
    Generation(u32),
    /// The guest or its agent is gone.
    #[error("the connection to the guest's agent has ended")]
    Gone,
    /// No answer.
    #[error("the guest's agent has not answered within {0:?}")]
    Silent(Duration),
    /// The agent does not keep to the protocol.
    #[error("the guest's agent does not keep to the protocol")]
    Wire(#[from] WireError),
    /// An answer to something else.
    #[error("the guest's agent answered something else than was asked for")]
    Unexpected,
    /// The agent refused.
    #[error("the guest's agent: {}", .0.text)]
    Refused(Failed),
    /// A stream failed.
    #[error("a stream to the guest failed")]
    Stream(#[source] io::Error),
}

impl AgentError {
    /// For a process that could not be started, 127 if its program is not there and 126 otherwise, as a shell counts.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Refused(failed) => failed.exit_code,
            _ => None,
        }
    }

    /// What kind of refusal it was, if the agent refused.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(failed) => Some(failed.reason),
            _ => None,
        }
    }
}

/// Proves the agent of one virtual machine to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(Token);

impl Key {
    /// A new one.
    pub fn random() -> Self {
        Self(calls::random_token())
    }

    /// What the guest's kernel command line needs for PID 1 to be an agent with this key.
    pub fn parameters(&self) -> String {
        format!("{}=agent {}={}", cmdline::ROLE, cmdline::TOKEN, self.0.to_hex())
    }
}

/// Waits for the agent of a virtual machine. Dropping it, and all agents that came of it, removes its socket soon after.
pub struct Listening {
    doors: Arc<doors::Doors>,
}

impl Listening {
    /// Listens beside `uds_path`, the path of the machine's vsock device. Must come before the machine starts.
    pub fn new(uds_path: impl AsRef<Path>, key: Key) -> Result<Self, AgentError> {
        Ok(Self {
            doors: doors::Doors::open(uds_path.as_ref(), key.0)?,
        })
    }

    /// Waits until the agent dials and says hello. An agent whose connection was lost dials again, and can be accepted
    /// again.
    pub fn accept(&self, timeout: Duration) -> Result<Agent, AgentError> {
        let (calls, hello) = calls::Calls::accept(&self.doors, timeout)?;
        if hello.generation != GENERATION {
            return Err(AgentError::Generation(hello.generation));
        }
        Ok(Agent { calls, hello })
    }
}

/// The agent of a guest. Dropping it ends the connection; processes go on.
pub struct Agent {
    calls: Arc<calls::Calls>,
    hello: Hello,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.calls.hang_up();
    }
}

impl Agent {
    /// How it introduced itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }
}

#[cfg(test)]
mod tests;
