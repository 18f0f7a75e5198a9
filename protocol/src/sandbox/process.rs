//! Messages about processes.
use super::Token;
use serde::{Deserialize, Serialize};

/// A process to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program, looked up in `PATH` unless it has a slash, and its arguments.
    pub argv: Vec<String>,
    /// Variables, beyond `PATH` and `HOME`, which have defaults.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory; `/` without one.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `user`, `user:group`, or numbers in their place; root without one. Names are looked up in `/etc/passwd` and
    /// `/etc/group`.
    #[serde(default)]
    pub user: Option<String>,
    /// A terminal of this size in place of the three pipes; standard error then comes as standard output.
    #[serde(default)]
    pub terminal: Option<Window>,
    /// Its streams.
    #[serde(default)]
    pub streams: Streams,
    /// Make pipes for the streams without a token as well, so that they can be attached to later. Otherwise those lead
    /// nowhere.
    #[serde(default)]
    pub keep_streams: bool,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Tokens of the streams that the host wants to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Goes to standard input; half-close is its end.
    #[serde(default)]
    pub stdin: Option<Token>,
    /// Comes from standard output.
    #[serde(default)]
    pub stdout: Option<Token>,
    /// Comes from standard error. Not on a terminal.
    #[serde(default)]
    pub stderr: Option<Token>,
}

/// A process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its name in other requests; never used again.
    pub process: u64,
    /// Its number in the guest.
    pub pid: i32,
}

/// Wait for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Which.
    pub process: u64,
}

/// A process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code; 128 + n if signal n ended it.
    pub code: u8,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
}

/// Send a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// To which process.
    pub process: u64,
    /// The signal's Linux number.
    pub signal: i32,
    /// To its process group, which it leads, and not to it alone.
    #[serde(default)]
    pub group: bool,
}

/// A terminal has a new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Whose.
    pub process: u64,
    /// The size.
    pub window: Window,
}

/// Connect anew to streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Whose.
    pub process: u64,
    /// Which. Nobody may be connected to them.
    pub streams: Streams,
}

/// Ask for all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {}

/// All processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// By age.
    pub processes: Vec<Process>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name in requests.
    pub process: u64,
    /// Its number in the guest.
    pub pid: i32,
    /// The program.
    pub program: String,
    /// How it ended, if it has.
    #[serde(default)]
    pub exited: Option<Exited>,
}
