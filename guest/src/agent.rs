//! The agent of a sandbox: dials the host over vsock and does what it asks, as `docs/agent.md` describes.
//!
//! Threads: the main thread reads requests and does the quick ones itself; one reaps every child
//! ([`Children`](crate::children::Children)), one passes bytes between processes and streams (`relay`), and requests
//! that may take long get one each, a bounded number of them. Answers are written by whoever has them, one frame at a
//! time. The host is trusted with the guest; what other programs of the guest say is not.
use coracle_protocol::sandbox::{Timings, Token};
use std::{io, time::Duration};

mod files;
mod machine;
mod netlink;
mod network;
mod outbox;
mod place;
mod ports;
mod processes;
mod relay;
mod serve;
mod sys;
mod tar;
mod user;
mod vsock;
mod watch;

/// What the agent is told when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Proves to the host who dials.
    pub token: Token,
    /// How the start went so far.
    pub timings: Timings,
}

/// How the machine shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Without power.
    Off,
    /// With a new start.
    Restart,
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A step of its start failed.
    #[error("cannot {0}")]
    Step(&'static str, #[source] io::Error),
}

/// How long to wait before dialing again, after the host was not there or went away.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until the host asks for the machine's end. A connection that is lost is dialed again; processes go on.
pub fn run(start: &Start) -> Result<End, AgentError> {
    let agent = serve::Agent::new()?;
    let mut complained = false;
    loop {
        match agent.connection(start) {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => complained = false,
            Err(error) if !complained => {
                eprintln!("coracle-guest: cannot talk to the host: {error}; will try again");
                complained = true;
            }
            Err(_) => {}
        }
        std::thread::sleep(PAUSE);
    }
}
