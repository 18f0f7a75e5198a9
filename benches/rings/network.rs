//! The other ends of network cards: a thread that sends frames back, and a TAP interface of the host.
use crate::Outcome;
use coracle_ring3::order::NET_HOST;
use rustix::{
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

/// The name of the interface.
pub(crate) const TAP: &str = "coracle-rings";

/// Longer than any frame with its header.
const FRAME: usize = 2048;

/// Sends every frame back until the VM is gone.
#[derive(Debug)]
pub(crate) struct Echo(JoinHandle<Result<(), Errno>>);

impl Echo {
    /// Connects to a card that listens.
    pub(crate) fn start(path: &Path) -> Outcome<Self> {
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(
            thread::Builder::new()
                .name("echo".into())
                .spawn(move || echo(&socket))?,
        ))
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Outcome<()> {
        match self.0.join() {
            Ok(Ok(()) | Err(Errno::CONNRESET | Errno::PIPE)) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot send frames back: {error}").into()),
            Err(_) => Err("the thread that sends frames back panicked".into()),
        }
    }
}

fn echo(socket: &OwnedFd) -> Result<(), Errno> {
    let mut frame = [0; FRAME];
    loop {
        let (length, _) = net::recv(socket, &mut frame, RecvFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        net::send(socket, frame.get(..length).unwrap_or_default(), SendFlags::NOSIGNAL)?;
    }
}

/// A TAP interface, removed when dropped.
#[derive(Debug)]
pub(crate) struct Tap(());

impl Tap {
    /// Makes the interface, whose kernel answers for [`NET_HOST`].
    pub(crate) fn make() -> Outcome<Self> {
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap"])?;
        let tap = Self(());
        let address = format!("{}/30", Ipv4Addr::from(NET_HOST));
        ip(&["address", "add", &address, "dev", TAP])?;
        ip(&["link", "set", TAP, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "del", TAP]) {
            eprintln!("rings: {error}");
        }
    }
}

fn ip(words: &[&str]) -> Outcome<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run ip of iproute2: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}`: {}", words.join(" "), reason.trim()).into())
}
