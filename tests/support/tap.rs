//! TAP interfaces for tests, which are gone when the test is over. Making one needs root, as tests have in an emulated host.
#![allow(unsafe_code, reason = "interfaces are made by ioctls")]
use std::{fs::File, io, os::fd::AsRawFd, process::Command};

/// An interface of the host.
pub struct Tap {
    pub name: String,
}

impl Tap {
    /// Makes the interface `name` with the host's end of `network` (`10.1.2.1/24`), for one queue or for many.
    pub fn new(name: &str, network: &str, many: bool) -> Self {
        let file = File::options().read(true).write(true).open("/dev/net/tun");
        let file = file.expect("/dev/net/tun can be opened: the module tun is loaded, and this is root");
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | if many { libc::IFF_MULTI_QUEUE } else { 0 };
        request[16..18].copy_from_slice(&u16::try_from(flags).unwrap().to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq` of 40 bytes, which outlives the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(made, 0, "{}", io::Error::last_os_error());
        // SAFETY: TUNSETPERSIST takes its argument by value.
        let kept = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) };
        assert_eq!(kept, 0, "{}", io::Error::last_os_error());
        drop(file);
        let tap = Self { name: name.to_owned() };
        ip(&["addr", "add", network, "dev", name]);
        ip(&["link", "set", name, "up"]);
        tap
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
    }
}

/// Runs `ip`.
pub fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}: {status}");
}
