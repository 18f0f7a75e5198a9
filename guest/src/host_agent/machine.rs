//! What PID 1 does to the machine itself: mounts, modules, addresses, power. Runs on the main thread, before any
//! command.
#![allow(
    unsafe_code,
    reason = "network addresses are set by ioctls that no safe interface offers"
)]
use super::{AgentError, step};
use rustix::{
    mount::{MountFlags, mount, mount_bind, mount_move},
    net::{AddressFamily, SocketType, socket},
    process::{chdir, chroot},
    system::{RebootCommand, finit_module, reboot},
};
use std::{
    ffi::CString,
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

/// Source, target, type, options; and whether the host can do without.
const MOUNTS: &[(&str, &str, &str, &str, bool)] = &[
    ("proc", "/proc", "proc", "", false),
    ("sysfs", "/sys", "sysfs", "", false),
    ("dev", "/dev", "devtmpfs", "mode=0755", false),
    ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", false),
    ("shm", "/dev/shm", "tmpfs", "mode=1777", false),
    ("tmp", "/tmp", "tmpfs", "mode=1777,size=90%", false),
    ("run", "/run", "tmpfs", "mode=0755", false),
    ("debugfs", "/sys/kernel/debug", "debugfs", "", true),
    ("tracefs", "/sys/kernel/tracing", "tracefs", "", true),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", "", true),
];

/// Mounts the file systems that commands expect.
pub(super) fn mount_all() -> Result<(), AgentError> {
    leave_rootfs().map_err(step("make the root file system a mount of its own"))?;
    for &(source, target, kind, options, dispensable) in MOUNTS {
        let _ = fs::create_dir_all(target);
        // What the initial file system brought along must stay in sight.
        if kind == "tmpfs" && fs::read_dir(target).is_ok_and(|mut inside| inside.next().is_some()) {
            continue;
        }
        let options = CString::new(options).unwrap_or_default();
        let done = mount(source, target, kind, MountFlags::empty(), options.as_c_str());
        if let Err(error) = done
            && error != rustix::io::Errno::BUSY
            && !dispensable
        {
            return Err(step(format!("mount {kind} on {target}"))(error.into()));
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, link);
    }
    Ok(())
}

/// Puts a mount of the initial file system over it. Programs that change their root with `pivot_root`, to lock themselves
/// in, cannot do so from the initial file system itself.
fn leave_rootfs() -> io::Result<()> {
    mount_bind("/", "/mnt")?;
    chdir("/mnt")?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// Loads the modules, one path per line, dependencies first.
pub(super) fn load_modules(list: &str) -> Result<(), AgentError> {
    for path in list.lines().filter(|line| !line.is_empty()) {
        let file = fs::File::open(path).map_err(step(format!("open the module {path}")))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(step(format!("load the module {path}"))(error.into())),
        }
    }
    Ok(())
}

/// Settings that virtual machines with more memory than the host, and many of them, need.
pub(super) fn tune() {
    let settings = [
        ("/proc/sys/vm/overcommit_memory", "1"),
        ("/proc/sys/kernel/printk", "4"),
        ("/proc/sys/kernel/hostname", "coracle-host"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ];
    for (path, value) in settings {
        let _ = fs::write(path, value);
    }
}

/// Gives an interface its address and switches it on. Waits for it up to two seconds: its driver may still probe.
pub(super) fn bring_up(name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> Result<(), AgentError> {
    let fail = || step(format!("set up the network interface {name}"));
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(|e| fail()(e.into()))?;
    let patience = Instant::now() + Duration::from_secs(2);
    loop {
        match configure(socket.as_fd(), name, address, netmask) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(fail()(error)),
        }
    }
}

fn configure(socket: BorrowedFd<'_>, name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let inet = |address: Ipv4Addr| libc::__c_anonymous_ifr_ifru {
        ifru_addr: inet_address(address),
    };
    interface(socket, libc::SIOCSIFADDR, name, inet(address))?;
    interface(socket, libc::SIOCSIFNETMASK, name, inet(netmask))?;
    let flags = libc::__c_anonymous_ifr_ifru {
        ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16,
    };
    interface(socket, libc::SIOCSIFFLAGS, name, flags)
}

/// An IPv4 address as `struct sockaddr_in` lies in memory: port, address, eight unused bytes.
fn inet_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data,
    }
}

fn interface(
    socket: BorrowedFd<'_>,
    wish: libc::c_ulong,
    name: &str,
    value: libc::__c_anonymous_ifr_ifru,
) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    for (to, from) in ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let request = libc::ifreq {
        ifr_name,
        ifr_ifru: value,
    };
    // SAFETY: the three requests used here read one `struct ifreq`, which lives until the call returns.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), wish as _, &raw const request) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Powers the machine off; never comes back.
pub(super) fn power_off() -> ! {
    rustix::fs::sync();
    loop {
        let _ = reboot(RebootCommand::PowerOff);
        std::thread::sleep(Duration::from_millis(100));
    }
}
