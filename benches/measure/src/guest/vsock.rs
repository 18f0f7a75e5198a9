//! Connections to the host by vsock.
#![allow(
    unsafe_code,
    reason = "rustix knows the family of vsock but no type for its addresses"
)]
use super::net::streams;
use crate::Outcome;
use coracle_measure::io::Service;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    connect, socket_with,
};
use std::fs::File;

/// The host, from any guest.
const HOST: u32 = 2;

pub(crate) fn work() -> Outcome<()> {
    streams(&|service: Service| {
        let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &Address::new(HOST, service.port().into()))?;
        Ok(File::from(socket))
    })
}

/// `struct sockaddr_vm` of `linux/vm_sockets.h`.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    padding: [u8; 4],
}

impl Address {
    fn new(cid: u32, port: u32) -> Self {
        Self {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port,
            cid,
            padding: [0; 4],
        }
    }
}

// SAFETY: the pointer is to `self`, which has the kernel's layout and outlives the call.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(&self, then: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        then(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}
