//! Dials the host over AF_VSOCK.
#![allow(unsafe_code, reason = "no safe interface knows the addresses of AF_VSOCK")]
use coracle_protocol::sandbox::{PORT, Preamble, Token};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt},
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// How long the host's VMM may take to answer.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// `SO_VM_SOCKETS_BUFFER_SIZE` and `SO_VM_SOCKETS_BUFFER_MAX_SIZE` of `linux/vm_sockets.h`.
const BUFFER_SIZE: libc::c_int = 0;
const BUFFER_MAX_SIZE: libc::c_int = 2;

/// Bytes that may be on their way on one connection.
static BUFFER: u64 = 1 << 20;

/// A control connection, which blocks.
pub(super) fn control(token: Token) -> io::Result<OwnedFd> {
    let socket = start()?;
    finish(&socket, Preamble::Control(token))?;
    ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Streams for those tokens that there are, which do not block. All are dialed at once, so that it takes one round trip.
pub(super) fn streams<const N: usize>(tokens: [Option<Token>; N]) -> io::Result<[Option<OwnedFd>; N]> {
    let mut sockets = [const { None }; N];
    for (socket, token) in sockets.iter_mut().zip(tokens) {
        if token.is_some() {
            *socket = Some(start()?);
        }
    }
    for (socket, token) in sockets.iter().zip(tokens) {
        if let (Some(socket), Some(token)) = (socket, token) {
            finish(socket, Preamble::Stream(token))?;
        }
    }
    Ok(sockets)
}

/// A stream that blocks.
pub(super) fn stream(token: Token) -> io::Result<OwnedFd> {
    let [stream] = streams([Some(token)])?;
    let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
    ioctl_fionbio(&stream, false)?;
    Ok(stream)
}

fn start() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    enlarge(&socket);
    // SAFETY: all zeros are a valid address.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (libc::VMADDR_CID_HOST, PORT);
    let len = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is of the length that is given, and the kernel only reads it.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error);
        }
    }
    Ok(socket)
}

/// Lets more bytes be on their way, in both directions: Linux sends no more at once than it would take itself.
fn enlarge(socket: &OwnedFd) {
    for option in [BUFFER_MAX_SIZE, BUFFER_SIZE] {
        let len = size_of_val(&BUFFER) as libc::socklen_t;
        // SAFETY: the kernel reads the eight bytes of `BUFFER`. A kernel that refuses goes on with what it has.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                (&raw const BUFFER).cast(),
                len,
            )
        };
    }
}

fn finish(socket: &OwnedFd, preamble: Preamble) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&PATIENCE)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    sockopt::socket_error(socket)??;
    // A new connection has room for so few bytes.
    let bytes = preamble.encode();
    match rustix::io::write(socket, &bytes)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
