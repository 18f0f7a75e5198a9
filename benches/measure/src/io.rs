//! The I/O benchmarks: what a guest and its VMM are to do, and what came of it. Pure data and parsing.
//!
//! The guest and the probe beside the VMM talk on the guest's console, a line at a time. At [`BEGIN`] and [`END`] the
//! guest waits for a line from the probe, which reads KVM's counters meanwhile: so they are of one step and nothing else.
pub mod figures;

use serde::{Deserialize, Serialize};

/// A step begins after the probe's line. Short, since each byte is an exit.
pub const BEGIN: &str = "@<";
/// A step has just ended.
pub const END: &str = "@>";
/// What a [`Measured`] follows.
pub const RESULT: &str = "@=";
/// The guest is done.
pub const DONE: &str = "@.";
/// What the reason follows, should the guest fail.
pub const FAILED: &str = "@!";

/// The step without any work, by which the probe knows what the lines themselves cost.
pub const EMPTY: &str = "empty";

/// The variable by which the kernel's command line tells the guest its [`Work::name`].
pub const VARIABLE: &str = "measure";

/// Addresses of the two ends of the network.
pub const HOST_ADDRESS: &str = "172.30.0.1";
/// See [`HOST_ADDRESS`].
pub const GUEST_ADDRESS: &str = "172.30.0.2";
/// The TAP interface on the host.
pub const TAP: &str = "tap0";

/// A service on the host that a guest connects to, by TCP or vsock. The number is its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Reads to the end, then answers with one byte.
    Sink = 5001,
    /// Reads a number of bytes (64 bits, little endian), then writes as many.
    Source = 5002,
    /// Answers each byte with a byte.
    Echo = 5003,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sink, Self::Source, Self::Echo];

    /// Its port.
    pub fn port(self) -> u16 {
        self as u16
    }
}

/// What a guest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Reads and writes its first disk, past its own cache.
    Disk,
    /// Talks to the host by TCP.
    Net,
    /// Talks to the host by vsock.
    Vsock {
        /// What the paths of the services' sockets begin with.
        path: String,
    },
    /// Makes hvc0 its console, says [`DONE`] there, and nothing else.
    Console,
}

impl Work {
    /// As the guest's command line has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Vsock { .. } => "vsock",
            Self::Console => "console",
        }
    }
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its name in the answer.
    pub name: String,
    /// The VMM's command line. The guest's console has to be on its standard input and output.
    pub argv: Vec<String>,
    /// What its guest does.
    pub work: Work,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// In the order in which they run.
    pub trials: Vec<Trial>,
    /// A file to make, of so many MiB, for the guests that need a disk.
    pub disk: Option<(String, u64)>,
}

/// What a guest measured: a step, how much it did, and how long that took by the guest's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Which step.
    pub step: String,
    /// How many operations.
    pub operations: u64,
    /// Bytes that one of them moves.
    pub size: u64,
    /// Nanoseconds for all.
    pub nanoseconds: u64,
}

impl Measured {
    /// A line for the console, after [`RESULT`].
    pub fn to_line(&self) -> String {
        let Self {
            step,
            operations,
            size,
            nanoseconds,
        } = self;
        format!("{step} {operations} {size} {nanoseconds}")
    }

    /// The opposite of [`Measured::to_line`].
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let step = words.next()?.to_string();
        let mut number = || words.next()?.parse().ok();
        let (operations, size, nanoseconds) = (number()?, number()?, number()?);
        words.next().is_none().then_some(Self {
            step,
            operations,
            size,
            nanoseconds,
        })
    }
}

/// A step as both sides saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The guest's side.
    pub measured: Measured,
    /// VM exits between its beginning and its end.
    pub exits: u64,
    /// VM exits since the VM began.
    pub exits_until: u64,
}

/// What became of a [`Trial`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// In the order in which they ran. The same step comes twice, and finds everything warm the second time.
    pub steps: Vec<Step>,
    /// Milliseconds from exec to [`DONE`].
    pub done_ms: f64,
    /// VM exits until then.
    pub exits: u64,
    /// Why it did not come to its end; then there are no figures.
    pub failure: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_measured_is_the_same_at_the_other_end_of_the_console() {
        let measured = Measured {
            step: "rand_read".to_string(),
            operations: 2000,
            size: 4096,
            nanoseconds: 61_234_567,
        };
        assert_eq!(Measured::from_line(&measured.to_line()), Some(measured));
        for line in ["", "a 1 2", "a 1 2 3 4", "a 1 2 -3", "a b 2 3"] {
            assert_eq!(Measured::from_line(line), None, "{line}");
        }
    }
}
