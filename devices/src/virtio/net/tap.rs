//! TAP interfaces of the host. A [`Tap`] owns one queue of an interface; any thread may use it, and it never blocks.
#![allow(unsafe_code, reason = "TAP interfaces are configured by ioctls")]
use super::HEADER;
use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is no interface's.
    #[error("{0:?} is no name of a network interface: 1 to 15 bytes, without / and spaces")]
    Name(String),
    /// The host cannot make TAP interfaces.
    #[error(
        "cannot open /dev/net/tun; load the module with `modprobe tun`, and let this user read and write the device"
    )]
    Device(#[source] io::Error),
    /// There is no such interface.
    #[error("there is no interface {name}; make it with `{}` and bring it up with `ip link set {name} up`", recipe(.name, *.queues))]
    Missing {
        /// The interface.
        name: String,
        /// Queues that are wanted.
        queues: u16,
    },
    /// Another process has it.
    #[error(
        "the interface {0} is in use by another process; stop that, or make one more with `ip tuntap add dev NAME mode tap`"
    )]
    Busy(String),
    /// It belongs to another user.
    #[error(
        "this user may not use the interface {name}; make it anew for this user with `ip tuntap del dev {name} mode tap; {}`",
        recipe(.name, *.queues)
    )]
    Permission {
        /// The interface.
        name: String,
        /// Queues that are wanted.
        queues: u16,
    },
    /// It is no TAP interface, or has another number of queues.
    #[error(
        "the interface {name} is no TAP interface that can have {queues} queues; make it with `{}`",
        recipe(.name, *.queues)
    )]
    Kind {
        /// The interface.
        name: String,
        /// Queues that are wanted.
        queues: u16,
    },
    /// Anything else that the kernel refused.
    #[error("cannot {wish} of the interface {name}; see `ip -details link show {name}`")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        wish: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The command that makes such an interface.
fn recipe(name: &str, queues: u16) -> String {
    let more = if queues > 1 { " multi_queue" } else { "" };
    format!("ip tuntap add dev {name} mode tap user $USER{more}")
}

/// One queue of a TAP interface. Frames have a virtio header of [`HEADER`] bytes before them.
#[derive(Debug)]
pub struct Tap {
    file: File,
    many: bool,
}

impl Tap {
    /// Opens `queues` queues of the interface `name`, which must be there.
    ///
    /// # Errors
    /// The interface is missing, busy, another user's or of another kind.
    pub fn open(name: &str, queues: u16) -> Result<Vec<Self>, TapError> {
        let valid =
            (1..libc::IF_NAMESIZE).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace());
        let Some(text) = CString::new(name).ok().filter(|_| valid) else {
            return Err(TapError::Name(name.into()));
        };
        // SAFETY: `text` is a C string that lives until the call returns.
        if unsafe { libc::if_nametoindex(text.as_ptr()) } == 0 {
            let name = name.into();
            return Err(TapError::Missing { name, queues });
        }
        (0..queues).map(|_| Self::open_queue(name, queues)).collect()
    }

    fn open_queue(name: &str, queues: u16) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(Path::new("/dev/net/tun"))
            .map_err(TapError::Device)?;
        let many = queues > 1;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | if many { libc::IFF_MULTI_QUEUE } else { 0 };
        set_interface(&file, name, flags).map_err(|source| {
            let name = name.into();
            match source.raw_os_error() {
                Some(libc::EBUSY) => TapError::Busy(name),
                Some(libc::EPERM) => TapError::Permission { name, queues },
                Some(libc::EINVAL | libc::E2BIG) => TapError::Kind { name, queues },
                _ => TapError::Refused {
                    name,
                    wish: "attach to a queue",
                    source,
                },
            }
        })?;
        let size = HEADER.try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        check(result).map_err(|source| TapError::Refused {
            name: name.into(),
            wish: "set the header's size",
            source,
        })?;
        Ok(Self { file, many })
    }

    /// Says which packets the host may leave unfinished for the guest: `TUN_F_*` bits. Holds for all queues.
    ///
    /// # Errors
    /// The kernel does not know one of them.
    pub fn set_offloads(&self, bits: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
    }

    /// Lets the host use this queue, or keeps it from doing so. An interface with one queue always uses it.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn attach(&self, wanted: bool) -> io::Result<()> {
        if !self.many {
            return Ok(());
        }
        let flags = if wanted {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        let request = interface_request("", flags);
        // SAFETY: TUNSETQUEUE reads an ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) };
        match check(result) {
            // It is as wanted already.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// The descriptor, to read, write and watch.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<File> for Tap {
    /// Anything that carries one frame, with its header, per read and write: what a test has instead of a TAP.
    fn from(file: File) -> Self {
        Self { file, many: false }
    }
}

fn set_interface(file: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = interface_request(name, flags);
    // SAFETY: TUNSETIFF reads and writes an ifreq, and this one outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// The kernel's `struct ifreq` as TUN reads it: a name, flags, and the rest of the union.
#[repr(C)]
struct Request {
    name: [u8; libc::IF_NAMESIZE],
    flags: libc::c_short,
    rest: [u8; 22],
}

fn interface_request(name: &str, flags: libc::c_int) -> Request {
    let mut request = Request {
        name: [0; libc::IF_NAMESIZE],
        flags: flags as libc::c_short,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
