//! Makes root file systems with the kernel's own system calls: as root, each in a mount namespace of its own.
#[path = "support/inside.rs"]
mod inside;

use inside::{Bundle, contents, mounts};
use std::fs;

const DEFAULT: [&str; 7] = [
    "/proc proc rw,relatime proc rw",
    "/dev tmpfs rw,nosuid tmpfs rw,size=65536k,mode=755",
    "/dev/pts devpts rw,nosuid,noexec,relatime devpts rw,gid=5,mode=620,ptmxmode=666",
    "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime shm rw,size=65536k",
    "/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime mqueue rw",
    "/sys sysfs ro,nosuid,nodev,noexec,relatime sysfs rw",
    "/sys/fs/cgroup",
];

#[test]
fn a_default_container_has_its_mounts_devices_and_links() {
    let bundle = Bundle::new();
    let look = || (mounts(), contents("/dev"), fs::read_link("/dev/stdin"), contents("/"));
    let Some(found) = bundle.enter(Bundle::default_config(), look) else {
        return;
    };
    let (mounts, dev, stdin, root) = found.unwrap();
    assert!(mounts[0].starts_with("/ ") && mounts[0].contains(" ro,"), "{mounts:#?}");
    for (mount, expected) in mounts[1..].iter().zip(DEFAULT) {
        assert!(mount.starts_with(expected), "{expected}: {mounts:#?}");
    }
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(dev.join(" "), expected);
    assert_eq!(stdin.unwrap().to_str(), Some("/proc/self/fd/0"));
    assert_eq!(root, ["dev", "proc", "sys"]);
}
