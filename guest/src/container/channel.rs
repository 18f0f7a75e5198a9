//! What a container's first process and its maker say to each other while the container is made: whole messages over a
//! socket pair, so that an error of any step reaches the caller with its words.
use super::{Error, Result};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longer words of errors are cut.
const LONGEST: usize = 16 * 1024;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// From a process in between: the id of the process that it has made.
    Made(i32),
    /// The user namespace is there and wants its ids; or, back: it has them.
    Maps,
    /// Hooks before the change of root: it is time; or, back: they have run.
    Hooks,
    /// All is set but for the process itself; or, back: go on.
    Ready,
    /// A step failed: the exit code that stands for it, and why.
    Failed(u8, String),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Made(pid) => [&[b'p'][..], &pid.to_le_bytes()].concat(),
            Self::Maps => vec![b'm'],
            Self::Hooks => vec![b'h'],
            Self::Ready => vec![b'r'],
            Self::Failed(code, why) => {
                let why = why.as_bytes();
                [&[b'e', *code][..], why.get(..LONGEST).unwrap_or(why)].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match bytes.split_first()? {
            (b'p', pid) => Self::Made(i32::from_le_bytes(pid.try_into().ok()?)),
            (b'm', []) => Self::Maps,
            (b'h', []) => Self::Hooks,
            (b'r', []) => Self::Ready,
            (b'e', [code, why @ ..]) => Self::Failed(*code, String::from_utf8_lossy(why).into_owned()),
            _ => return None,
        })
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::step("make a socket pair for the container's first process"))?;
        Ok((Self(one), Self(other)))
    }

    /// An end that was made elsewhere.
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Says something.
    pub(super) fn send(&self, message: &Message) -> Result<()> {
        retry_on_intr(|| send(&self.0, &message.encode(), SendFlags::NOSIGNAL))
            .map(drop)
            .map_err(Error::step("reach the other end of the container's making"))
    }

    /// Hears something; `None` when the other end is closed. A failure that is told is an error here.
    pub(super) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = vec![0; LONGEST + 2];
        let length = match retry_on_intr(|| recv(&self.0, &mut *bytes, RecvFlags::empty())) {
            Ok((length, _)) => length,
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(Error::step("hear of the container's making")(error)),
        };
        bytes.truncate(length);
        if bytes.is_empty() {
            return Ok(None);
        }
        match Message::decode(&bytes) {
            Some(Message::Failed(code, why)) => Err(Error::Inside { code, why }),
            Some(message) => Ok(Some(message)),
            None => Err(Error::step("understand the other end of the container's making")(
                Errno::PROTO,
            )),
        }
    }

    /// Hears the message that has to come now.
    pub(super) fn expect(&self, wanted: &Message) -> Result<()> {
        match self.receive()? {
            Some(message) if message == *wanted => Ok(()),
            Some(_) => Err(Error::step(format!("hear {wanted:?}"))(Errno::PROTO)),
            None => Err(Error::step(format!("hear {wanted:?}: the other process is gone"))(
                Errno::PIPE,
            )),
        }
    }

    /// Says a message and waits for its echo.
    pub(super) fn ask(&self, message: &Message) -> Result<()> {
        self.send(message)?;
        self.expect(message)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (one, other) = Channel::pair().unwrap();
        for message in [Message::Made(7), Message::Maps, Message::Hooks, Message::Ready] {
            one.send(&message).unwrap();
            assert_eq!(other.receive().unwrap(), Some(message));
        }
        one.send(&Message::Failed(127, "cannot find \"x\"".into())).unwrap();
        let Err(Error::Inside { code: 127, why }) = other.receive() else {
            panic!("a failure is an error")
        };
        assert_eq!(why, "cannot find \"x\"");
        drop(one);
        assert_eq!(other.receive().unwrap(), None);
        assert!(
            other
                .expect(&Message::Ready)
                .unwrap_err()
                .to_string()
                .contains("is gone")
        );
    }

    #[test]
    fn words_of_errors_are_cut_before_they_are_too_long() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&Message::Failed(1, "x".repeat(1 << 20))).unwrap();
        let Err(Error::Inside { why, .. }) = other.receive() else {
            panic!("a failure is an error")
        };
        assert_eq!(why.len(), LONGEST);
    }

    #[test]
    fn noise_is_no_message() {
        for noise in [&b""[..], b"x", b"p12", b"mm", b"e"] {
            assert_eq!(Message::decode(noise), None);
        }
    }
}
