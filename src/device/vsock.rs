//! The host's side of a vsock device: a listening Unix socket, and the sockets of programs that serve the guest.
//!
//! The socket at `uds_path` is made when the VM is built and removed with it. One that a VMM left behind is replaced; one
//! that is served, or that is no socket, is left alone. Looking and replacing happen under a lock on the folder, so that two
//! VMMs that start at once do not take it from each other.
use super::{Backend, DeviceError};
use crate::{board::Board, config::spec::VsockSpec};
use coracle_devices::virtio::vsock::{Host, Vsock as Device};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    time::Instant,
};

pub(super) struct Vsock {
    guest_cid: u32,
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the socket, which tell it from one that somebody else has put there.
    identity: (u64, u64),
}

impl Vsock {
    pub(super) fn open(spec: &VsockSpec) -> Result<Self, DeviceError> {
        listen(&spec.uds_path)
            .map(|(listener, identity)| Self {
                guest_cid: spec.guest_cid,
                path: spec.uds_path.clone(),
                listener,
                identity,
            })
            .map_err(|refusal| match refusal {
                Refusal::Taken(why) => DeviceError::SocketTaken {
                    path: spec.uds_path.clone(),
                    why,
                },
                Refusal::Failed(source) => DeviceError::Socket {
                    path: spec.uds_path.clone(),
                    source,
                },
            })
    }
}

impl Backend for Vsock {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let thread = board.io_thread()?;
        let listener = self.listener.try_clone().map_err(|source| DeviceError::Resource {
            name: "the vsock device".to_owned(),
            source,
        })?;
        let path = self.path.clone();
        let host = Host {
            listener: listener.into(),
            dial: Box::new(move |port| dial(&path, port)),
            clock: Box::new(Instant::now),
        };
        Ok(board.virtio("vsock", Device::new(self.guest_cid, host), vec![thread])?)
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        let Ok(_lock) = lock(&self.path) else { return };
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

enum Refusal {
    Taken(&'static str),
    Failed(io::Error),
}

impl<E: Into<io::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn listen(path: &Path) -> Result<(UnixListener, (u64, u64)), Refusal> {
    let _lock = lock(path)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(Refusal::Taken("something that is no socket")),
        Ok(_) => match connect_to(path) {
            Ok(_) | Err(Errno::AGAIN) => return Err(Refusal::Taken("a socket that another program serves")),
            // Nobody listens there any more.
            Err(Errno::CONNREFUSED) => fs::remove_file(path)?,
            Err(error) => return Err(error.into()),
        },
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok((listener, identity(path)?))
}

/// Keeps other VMMs from looking at the folder's sockets until it is dropped.
fn lock(path: &Path) -> Result<OwnedFd, Errno> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Connects to whoever serves a port of the host: the socket `<uds_path>_<port>`.
fn dial(path: &Path, port: u32) -> io::Result<OwnedFd> {
    let mut path = OsString::from(path);
    path.push(format!("_{port}"));
    Ok(connect_to(Path::new(&path))?)
}

/// Connects without waiting for anybody.
fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
