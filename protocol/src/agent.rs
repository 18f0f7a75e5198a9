//! Messages of the emulated host: between its agent (PID 1), the keeper that owns the machine, and the programs that
//! run commands in it.
//!
//! The agent dials the keeper. On its control connection it sends [`FromAgent`] and receives [`Order`]; for each
//! [`Order::Dial`] it dials once more, says [`Hello::Channel`], and from then on that connection belongs to one
//! client, which sends one [`Request`] and then what that request calls for. Either side ends a connection by closing
//! it; there is no half-close.
use serde::{Deserialize, Serialize};

/// Grows when a message changes its meaning. Both ends must have the same.
pub const VERSION: u32 = 1;

/// Where the agent finds its [`Setup`] in the initial file system, one frame.
pub const SETUP_FILE: &str = "/coracle/setup";

/// Where the agent finds the names of the modules to load, one path per line, dependencies first.
pub const MODULES_FILE: &str = "/coracle/modules";

/// Bytes of standard input that a client may send beyond what [`Output::StdinTaken`] has confirmed.
pub const STDIN_WINDOW: usize = 256 << 10;

/// Bytes in one piece of a stream, at most.
pub const CHUNK: usize = 64 << 10;

/// Thirty-two random bytes that prove who is calling.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What the agent is to do; put into its initial file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setup {
    /// Dial the keeper and serve until told to power off.
    Serve {
        /// TCP port of the keeper on the network's gateway.
        port: u16,
        /// Proves the agent to the keeper.
        token: Token,
    },
    /// Run one command, write its [`Output`] to the second serial port, send the files back, power off.
    Once {
        /// The command.
        exec: Exec,
        /// A file that is its standard input; empty input without one.
        stdin: Option<String>,
        /// Files to send back, each after an [`Output::File`], once the command has ended. Missing ones are left out.
        files_out: Vec<String>,
    },
}

/// First message on a connection from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// The control connection.
    Control {
        /// [`VERSION`] of the agent.
        version: u32,
        /// The token of [`Setup::Serve`].
        token: Token,
    },
    /// A channel for one client.
    Channel {
        /// The token of [`Order::Dial`].
        token: Token,
    },
}

/// What the keeper asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Answer with [`FromAgent::Pong`].
    Ping {
        /// Comes back in the answer.
        number: u64,
        /// Nanoseconds since 1970, for the clock of the host.
        now: u64,
    },
    /// Dial once more, with this token, and serve a client there.
    Dial {
        /// Valid once.
        token: Token,
    },
    /// Power off.
    PowerOff,
}

/// What the agent says on its control connection, after [`Hello::Control`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// The answer to [`Order::Ping`].
    Pong {
        /// The number of the ping.
        number: u64,
    },
}

/// What a client wants from a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run a command. The client goes on with [`Input`], the agent answers with [`Output`].
    Exec(Exec),
    /// Write files. The client goes on with [`Piece`]s up to [`Piece::End`], then the agent answers with [`Done`].
    Put {
        /// Absolute path; an existing folder, or a path that ends with `/`, receives the tree under `name`.
        to: String,
        /// Name of the tree where `to` is a folder.
        name: String,
        /// Remembered for the file, for a later [`Request::Lacks`].
        stamp: Option<String>,
    },
    /// Read files. The agent answers with [`Piece`]s up to [`Piece::End`] or [`Piece::Failed`].
    Get {
        /// Absolute path.
        from: String,
    },
    /// Which of these files the host has not. The agent answers with `Vec<bool>`, true for missing or changed.
    Lacks {
        /// Path and stamp of each.
        files: Vec<(String, String)>,
    },
}

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program, looked up in `PATH` unless it has a slash, and its arguments.
    pub argv: Vec<String>,
    /// Variables beyond the few that every command gets (`PATH`, `HOME`, `TERM`).
    pub env: Vec<(String, String)>,
    /// Working directory; `/` without one. Created if it is missing.
    pub cwd: Option<String>,
    /// Run it on a terminal of this size; standard error then comes as standard output.
    pub terminal: Option<Window>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What a client sends to its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Bytes for standard input.
    Stdin(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Standard input ends.
    StdinEnd,
    /// A signal for the command's process group, by its Linux number.
    Signal(i32),
    /// The terminal has a new size.
    Window(Window),
}

/// What comes back from a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// It runs.
    Started,
    /// Bytes from standard output.
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Bytes from standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// So many bytes of standard input went to the command, or nowhere once it had closed its end.
    StdinTaken(u64),
    /// [`Piece`]s of this file follow, up to the last. Only from a [`Setup::Once`], after the command's own output.
    File {
        /// The path that was asked for.
        path: String,
    },
    /// It ended; the last message. 128 + n if signal n ended it.
    Exited(u8),
    /// It could not be started; the last message.
    Failed {
        /// 127 for a program that is not there, 126 otherwise, as a shell counts.
        code: u8,
        /// What failed and why.
        reason: String,
    },
}

/// A tree of files as a stream. Paths are relative to its root, which is the empty path and comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A folder.
    Folder {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file; its bytes follow.
    File {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Modification time in nanoseconds since 1970.
        modified: u64,
    },
    /// Bytes of the last file.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A symbolic link.
    Link {
        /// Where.
        path: String,
        /// What it says.
        target: String,
    },
    /// Nothing follows.
    End,
    /// The tree cannot be read further; nothing follows.
    Failed {
        /// What failed and why.
        reason: String,
    },
}

/// How a [`Request::Put`] ended; the text says what failed and why.
pub type Done = Result<(), String>;
