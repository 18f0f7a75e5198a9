//! The protocol between a host and the agent in a sandbox, which is PID 1 of a guest.
//!
//! The guest dials [`PORT`] of the host, once for the control connection and once for each byte stream; the host never
//! dials. Every connection begins with a [`Preamble`]. On the control connection [`wire::Frame`]s follow: a
//! [`Hello`] of the guest, then [`Request`]s of the host, each answered by [`Answer`]s with its number. On a stream the
//! bytes follow, and half-close is the end of a direction.
//!
//! The protocol grows and never changes: fields have names, a receiver ignores those that it does not know, a new field
//! has a default, and the name of a message is never used again. What the agent can do stands in [`Hello::capabilities`];
//! a request that it does not know is answered by [`Answer::Failed`] with [`Reason::Unsupported`].
use serde::{Deserialize, Serialize};

pub mod file;
pub mod machine;
pub mod network;
pub mod process;
pub mod wire;

/// The vsock port of the host that the guest dials, for control and streams alike.
pub const PORT: u32 = 2620;

/// Grows when what was said before no longer holds; additions leave it alone. Both ends must have the same.
pub const GENERATION: u32 = 1;

/// Sixteen random bytes: of the virtual machine, from the kernel command line; or of one stream, from the request for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// From 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Self(bytes))
    }

    /// As 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .filter_map(|digit| char::from_digit(u32::from(digit), 16))
            .collect()
    }
}

/// Tokens are secrets: logs do not show them.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(from)?;
        let bytes: [u8; 16] = bytes.as_slice().try_into().map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// The first bytes of a connection from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// Frames follow. The token is that of the virtual machine.
    Control(Token),
    /// The bytes of a stream follow.
    Stream(Token),
}

impl Preamble {
    /// How many bytes it has.
    pub const LEN: usize = 20;

    const CONTROL: [u8; 4] = *b"ctl1";
    const STREAM: [u8; 4] = *b"str1";

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let (kind, token) = match self {
            Self::Control(token) => (Self::CONTROL, token),
            Self::Stream(token) => (Self::STREAM, token),
        };
        let mut bytes = [0; Self::LEN];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&kind);
        tail.copy_from_slice(&token.0);
        bytes
    }

    /// From bytes; `None` if they are something else.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (kind, token) = bytes.split_first_chunk::<4>()?;
        let token = Token(token.try_into().ok()?);
        match *kind {
            Self::CONTROL => Some(Self::Control(token)),
            Self::STREAM => Some(Self::Stream(token)),
            _ => None,
        }
    }
}

/// What the guest says by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// The first frame of a control connection.
    Hello(Hello),
}

/// The guest introduces itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`GENERATION`] of the guest.
    pub generation: u32,
    /// What the guest can do; see [`capability`].
    pub capabilities: Vec<String>,
    /// How its start went.
    pub timings: Timings,
    /// Release of its kernel, as `uname -r` says it.
    #[serde(default)]
    pub kernel: String,
    /// Version of the agent's program.
    #[serde(default)]
    pub version: String,
}

/// How the start of the guest went. Microseconds on its boot clock, which the kernel starts at zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// When the kernel started, in nanoseconds since 1970 on the guest's clock.
    pub kernel: u64,
    /// PID 1 started.
    pub init: u64,
    /// All modules were loaded.
    pub modules: u64,
    /// The agent was ready and dialed.
    pub ready: u64,
}

/// Names of what an agent can do. The names of requests stand for themselves; these are beyond them.
pub mod capability {
    /// [`exec`](super::Request::Exec) and what belongs to processes.
    pub const EXEC: &str = "exec";
    /// [`files`](super::file) without watching.
    pub const FILES: &str = "files";
    /// [`watch`](super::Request::Watch).
    pub const WATCH: &str = "watch";
    /// [`pack`](super::Request::Pack) and [`unpack`](super::Request::Unpack).
    pub const TAR: &str = "tar";
    /// [`mount`](super::Request::Mount) and [`umount`](super::Request::Umount).
    pub const MOUNT: &str = "mount";
    /// [`network`](super::network).
    pub const NETWORK: &str = "network";
    /// [`freeze`](super::Request::Freeze) and [`thaw`](super::Request::Thaw).
    pub const FREEZE: &str = "freeze";
    /// [`entropy`](super::Request::Entropy) and [`clock`](super::Request::Clock).
    pub const SEEDS: &str = "seeds";
    /// [`ports`](super::Request::Ports) and [`forward`](super::Request::Forward).
    pub const PORTS: &str = "ports";
    /// [`sync`](super::Request::Sync) and [`power`](super::Request::Power).
    pub const POWER: &str = "power";
}

/// What the host wants. Paths are absolute, in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Start a process: [`Answer::Started`].
    Exec(process::Exec),
    /// Wait for the end of a process: [`Answer::Exited`]. The agent then forgets it.
    Wait(process::Wait),
    /// Send a signal: [`Answer::Done`].
    Signal(process::Signal),
    /// Tell a process's terminal its size: [`Answer::Done`].
    Resize(process::Resize),
    /// Connect anew to the streams of a process: [`Answer::Done`].
    Attach(process::Attach),
    /// All processes that the agent has started and not forgotten: [`Answer::Processes`].
    Processes(process::List),
    /// Facts about a file: [`Answer::Status`].
    Stat(file::Stat),
    /// What a folder holds: [`Answer::Entries`], in parts.
    List(file::List),
    /// A file's bytes on a stream: [`Answer::Moved`] when they are sent.
    Read(file::Read),
    /// A file from a stream: [`Answer::Moved`] when the stream has ended and all is written.
    Write(file::Write),
    /// Make a folder: [`Answer::Done`].
    Mkdir(file::Mkdir),
    /// Rename: [`Answer::Done`].
    Rename(file::Rename),
    /// Remove: [`Answer::Done`].
    Remove(file::Remove),
    /// Changes of a folder or file: [`Answer::Done`] once it is watched, [`file::Change`] frames on the stream.
    Watch(file::Watch),
    /// A tree as a tar archive on a stream: [`Answer::Moved`] at its end.
    Pack(file::Pack),
    /// A tree from a tar archive on a stream: [`Answer::Moved`] at its end.
    Unpack(file::Unpack),
    /// Mount a file system: [`Answer::Done`].
    Mount(machine::Mount),
    /// Take a mount away: [`Answer::Done`].
    Umount(machine::Umount),
    /// Network links and their addresses: [`Answer::Links`].
    Links(network::Links),
    /// Change a link: [`Answer::Done`].
    Link(network::Link),
    /// Add or remove a route: [`Answer::Done`].
    Route(network::Route),
    /// Write `/etc/resolv.conf`: [`Answer::Done`].
    Dns(network::Dns),
    /// Write `/etc/hosts`, and set the host's name: [`Answer::Done`].
    Hosts(network::Hosts),
    /// Listening TCP sockets: [`Answer::Ports`].
    Ports(network::Ports),
    /// Connect a stream to a TCP port of the guest: [`Answer::Done`] once it is connected.
    Forward(network::Forward),
    /// Hold a file system still, its changes written: [`Answer::Done`].
    Freeze(machine::Freeze),
    /// Let it go on: [`Answer::Done`].
    Thaw(machine::Thaw),
    /// Give the kernel entropy, and have its generator use it at once: [`Answer::Done`].
    Entropy(machine::Entropy),
    /// Read the clock, or set it: [`Answer::Clock`].
    Clock(machine::Clock),
    /// Write what is not on disks yet: [`Answer::Done`].
    Sync(machine::Sync),
    /// Power off or restart. [`Answer::Done`] comes before.
    Power(machine::Power),
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done(Done),
    /// It failed.
    Failed(Failed),
    /// A process runs.
    Started(process::Started),
    /// A process has ended.
    Exited(process::Exited),
    /// Processes.
    Processes(process::Processes),
    /// Facts about a file.
    Status(file::Status),
    /// Part of a folder.
    Entries(file::Entries),
    /// So much went over a stream.
    Moved(file::Moved),
    /// Network links.
    Links(network::LinkList),
    /// Listening sockets.
    Ports(network::PortList),
    /// The clocks.
    Clock(machine::Clocks),
}

/// Nothing to add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What kind of failure.
    pub reason: Reason,
    /// What was to be done, with what, and what the kernel said.
    pub text: String,
    /// The kernel's error number, if it was the kernel.
    #[serde(default)]
    pub errno: Option<i32>,
    /// For a process that could not be started: 127 if its program is not there, 126 otherwise, as a shell counts.
    #[serde(default)]
    pub exit_code: Option<u8>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The request makes no sense.
    Invalid,
    /// The agent does not know the request.
    Unsupported,
    /// There is no such file, process or link.
    NotFound,
    /// Whoever may do it, it is not the agent or the user that was asked for.
    Denied,
    /// It is in use, or there already.
    Busy,
    /// There are too many of them already.
    TooMany,
    /// The kernel refused for another reason.
    System,
    /// A newer agent's.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests;
