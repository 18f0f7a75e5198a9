//! The terminal of a container's process: made inside the container, its master handed out over a socket.
use super::{Error, Result};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, fchown, open},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with, socketpair,
    },
    process::ioctl_tiocsctty,
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

/// Connects to the socket that wants the terminal's master.
pub(super) fn connect_to(path: &Path) -> Result<OwnedFd> {
    let wish = || format!("connect to the console socket {}", path.display());
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Error::step(wish()))?;
    // The path of a socket is short; that of an open folder always is.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(Error::step(wish()))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    let address = SocketAddrUnix::new(short).map_err(Error::step(wish()))?;
    retry_on_intr(|| connect(&socket, &address)).map_err(Error::step(wish()))?;
    Ok(socket)
}

/// Two ends for a terminal that stays with this command.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Error::step("make a socket pair for the terminal"))
}

/// Inside the container, by a session's leader: makes a terminal, hands out its master, and makes it the standard
/// streams of this process. Gives the terminal itself.
pub(super) fn set_up(socket: BorrowedFd<'_>, size: Option<(u16, u16)>, owner: (u32, u32)) -> Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(Error::step("open /dev/ptmx in the container"))?;
    unlockpt(&master).map_err(Error::step("unlock the container's terminal"))?;
    let terminal = ioctl_tiocgptpeer(&master, flags).map_err(Error::step("open the container's terminal"))?;
    let name = ptsname(&master, Vec::new()).map_err(Error::step("find the name of the container's terminal"))?;
    if let Some((rows, columns)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).map_err(Error::step(format!("make the terminal {columns}x{rows}")))?;
    }
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    match fchown(&terminal, Some(uid), Some(gid)) {
        // Ids that the user namespace does not map stay as they are, as does a read-only file system.
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
        Err(error) => return Err(Error::step(format!("give the terminal to user {}", owner.0))(error)),
    }
    send(socket, name.as_bytes(), master.as_fd())?;
    ioctl_tiocsctty(&terminal).map_err(Error::step("make the terminal the session's own"))?;
    let wish = "make the terminal the standard streams";
    dup2_stdin(&terminal).map_err(Error::step(wish))?;
    dup2_stdout(&terminal).map_err(Error::step(wish))?;
    dup2_stderr(&terminal).map_err(Error::step(wish))?;
    Ok(terminal)
}

fn send(socket: BorrowedFd<'_>, name: &[u8], master: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    rights.push(SendAncillaryMessage::ScmRights(&fds));
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(name)], &mut rights, SendFlags::NOSIGNAL))
        .map(drop)
        .map_err(Error::step("send the terminal's master to the console socket"))
}

/// The master that [`set_up`] sends.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let wish = "receive the terminal's master";
    let mut name = [0; 128];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut name)],
            &mut rights,
            RecvFlags::CMSG_CLOEXEC,
        )
    })
    .map_err(Error::step(wish))?;
    let fds = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.ok_or_else(|| Error::step(wish)(Errno::BADMSG))
}
