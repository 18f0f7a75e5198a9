//! AF_VSOCK sockets in a guest. Connected ones are handed out as [`UnixStream`], which reads, writes and shuts down any
//! stream socket.
#![allow(unsafe_code, reason = "no safe interface knows the addresses of AF_VSOCK")]
use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// The host.
pub const HOST: u32 = libc::VMADDR_CID_HOST;

/// Connects to a port.
pub fn connect(cid: u32, port: u32) -> io::Result<UnixStream> {
    let socket = socket()?;
    let (address, len) = address(cid, port);
    // SAFETY: the address is of the length that is given.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    check(result).map(|_| socket.into())
}

/// Listens on a port.
pub struct Listener(OwnedFd);

impl Listener {
    pub fn bind(port: u32) -> io::Result<Self> {
        let socket = socket()?;
        let (address, len) = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: as above.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
        // SAFETY: a call on integers.
        check(unsafe { libc::listen(socket.as_raw_fd(), 4096) })?;
        Ok(Self(socket))
    }

    pub fn accept(&self) -> io::Result<UnixStream> {
        let null = std::ptr::null_mut();
        // SAFETY: no address is asked for.
        let fd = check(unsafe { libc::accept4(self.0.as_raw_fd(), null, null.cast(), libc::SOCK_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: a call on integers.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> (libc::sockaddr_vm, libc::socklen_t) {
    // SAFETY: all zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (cid, port);
    (address, size_of::<libc::sockaddr_vm>() as libc::socklen_t)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
