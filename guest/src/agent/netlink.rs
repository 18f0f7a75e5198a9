//! Requests to the kernel's network by rtnetlink: what links, addresses and routes need of it.
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};
use std::{io, net::IpAddr, os::fd::OwnedFd};

pub(super) const GET_LINK: u16 = libc::RTM_GETLINK;
pub(super) const SET_LINK: u16 = libc::RTM_NEWLINK;
pub(super) const GET_ADDRESS: u16 = libc::RTM_GETADDR;
pub(super) const NEW_ADDRESS: u16 = libc::RTM_NEWADDR;
pub(super) const DELETE_ADDRESS: u16 = libc::RTM_DELADDR;
pub(super) const NEW_ROUTE: u16 = libc::RTM_NEWROUTE;
pub(super) const DELETE_ROUTE: u16 = libc::RTM_DELROUTE;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes that one answer of the kernel may have.
const ANSWER: usize = 64 << 10;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
/// Make it, or change what is there.
pub(super) const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

/// A message that is being put together.
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message whose fixed part is made of these bytes.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self {
            kind,
            flags,
            body: fixed.to_vec(),
        }
    }

    /// With an attribute, `struct rtattr`.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(&self, flags: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | flags).to_ne_bytes());
        // Sequence number and sender: there is one request at a time, and the kernel knows the socket.
        bytes.extend([0; 8]);
        bytes.extend(&self.body);
        bytes
    }
}

/// A message of the kernel.
pub(super) struct Answer {
    body: Vec<u8>,
}

/// A socket to the kernel.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // No protocol number is NETLINK_ROUTE, which is zero.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// Has the kernel do something.
    pub(super) fn tell(&self, message: &Message) -> io::Result<()> {
        send(&self.0, &message.bytes(REQUEST | ACKNOWLEDGE), SendFlags::empty())?;
        self.answers().map(|_| ())
    }

    /// Asks for all there is of a kind.
    pub(super) fn list(&self, message: &Message) -> io::Result<Vec<Answer>> {
        send(&self.0, &message.bytes(REQUEST | DUMP), SendFlags::empty())?;
        self.answers()
    }

    fn answers(&self) -> io::Result<Vec<Answer>> {
        let mut space = vec![0; ANSWER];
        let mut answers = Vec::new();
        loop {
            let count = match recv(&self.0, space.as_mut_slice(), RecvFlags::empty()) {
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = space.get(..count).unwrap_or_default();
            while let Some((kind, body, after)) = split(rest) {
                match kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return match code {
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => answers.push(Answer { body: body.to_vec() }),
                }
                rest = after;
            }
        }
    }
}

/// The first message: its kind, its body, what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

impl Answer {
    /// Four bytes of the fixed part.
    pub(super) fn word(&self, at: usize) -> u32 {
        let bytes = self.body.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    /// A byte of the fixed part.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or(0)
    }

    /// An attribute behind a fixed part of so many bytes.
    pub(super) fn attribute(&self, fixed: usize, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.body.get(fixed..)?;
        loop {
            let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
            let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
            let value = rest.get(4..length)?;
            if kind == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    /// An attribute that is a number of four bytes.
    pub(super) fn number(&self, fixed: usize, wanted: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.attribute(fixed, wanted)?.first_chunk()?))
    }

    /// An attribute that is an address.
    pub(super) fn address(&self, fixed: usize, wanted: u16) -> Option<IpAddr> {
        let bytes = self.attribute(fixed, wanted)?;
        let four = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        four.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
    }
}

/// An address as an attribute, and its family.
pub(super) fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}
