//! A bundle with an image in it, and a way into it: a thread with a mount namespace of its own.
#![allow(
    unsafe_code,
    reason = "unshare(2) has no safe interface, since it may part threads from one another"
)]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test program uses a part of it, and only tests use it"
)]
use coracle_guest::container::{
    Result,
    rootfs::{Entered, Mounted, Rootfs},
    system::KernelCalls,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Read as _, Write as _, pipe},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// A folder with `rootfs` in it, which goes with it.
pub struct Bundle(PathBuf);

impl Bundle {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "coracle-rootfs-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("rootfs")).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in the image.
    pub fn image(&self, path: &str) -> PathBuf {
        self.0.join("rootfs").join(path)
    }

    /// What `crun spec` and `runc spec` write, as far as it is about files.
    pub fn default_config() -> Value {
        let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                  "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            ],
            "linux": {
                "namespaces": [{ "type": "mount" }],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/nothing", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/nothing"],
            },
        })
    }

    /// A procfs and these mounts, in an image that can be written.
    pub fn mounts(mounts: Value) -> Value {
        let mut all = vec![json!({ "destination": "/proc", "type": "proc" })];
        all.extend(mounts.as_array().unwrap().iter().cloned());
        json!({ "root": { "path": "rootfs" }, "mounts": all, "linux": { "namespaces": [{ "type": "mount" }] } })
    }

    /// The configuration, checked.
    pub fn rootfs(&self, config: Value) -> Result<Rootfs> {
        Rootfs::new(&serde_json::from_value(config).unwrap(), &self.0)
    }

    /// Makes the root file system, enters it, and gives what is seen there.
    pub fn enter<T: Send>(&self, config: Value, look: impl FnOnce() -> T + Send) -> Result<T> {
        self.stages(config, |entered| entered.seal(&KernelCalls).map(|()| look()))
    }

    /// As [`Self::enter`], before anything is sealed.
    pub fn stages<T: Send>(&self, config: Value, then: impl FnOnce(Entered) -> Result<T> + Send) -> Result<T> {
        apart(|| then(self.rootfs(config)?.mount(&KernelCalls)?.enter(&KernelCalls)?))
    }

    /// As it is right after the mounts, with the former root.
    pub fn outside<T: Send>(&self, config: Value, look: impl FnOnce(Mounted) -> T + Send) -> Result<T> {
        apart(|| Ok(look(self.rootfs(config)?.mount(&KernelCalls)?)))
    }
}

/// Whether the tests can be run; says why not.
pub fn possible() -> bool {
    let ids = fs::read_to_string("/proc/self/uid_map").unwrap();
    let power = rustix::process::geteuid().is_root() && ids.split_whitespace().eq(["0", "0", "4294967295"]);
    if !power {
        eprintln!("skipped: it takes root, and not that of a user namespace");
    }
    power
}

/// Does it in a mount namespace of its own.
pub fn apart<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // SAFETY: the thread leaves the folders, the root and the mounts that it has in common with the others; it
        // shares nothing else less, so nothing that they rely on changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        what()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Does it as root of a user namespace whose ids begin at [`FIRST_ID`], in a mount namespace of its own, in a process of
/// its own: gives what it says.
pub fn apart_as_nobody(what: impl FnOnce() -> String) -> String {
    let (told, mut tell) = pipe().unwrap();
    let ((mut ready, mut is_ready), (mut go, mut goes)) = (pipe().unwrap(), pipe().unwrap());
    // SAFETY: glibc has its allocator ready in the child, and the child uses nothing else that another thread may hold.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // So that it does not wait for itself, should the parent fail.
        drop(goes);
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // SAFETY: the process has one thread.
            unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }.unwrap();
            is_ready.write_all(b"x").unwrap();
            go.read_exact(&mut [0]).unwrap();
            // SAFETY: bare system calls.
            assert_eq!(unsafe { libc::setresgid(0, 0, 0) }, 0);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::setresuid(0, 0, 0) }, 0);
            what()
        }));
        let said = said.unwrap_or_else(|_| "it panicked".into());
        tell.write_all(said.as_bytes()).unwrap();
        // SAFETY: the process has nothing that would have to be done at its end.
        unsafe { libc::_exit(0) };
    }
    drop((tell, is_ready));
    ready.read_exact(&mut [0]).unwrap();
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{map}"), format!("0 {FIRST_ID} 65536")).unwrap();
    }
    goes.write_all(b"x").unwrap();
    let said = io::read_to_string(told).unwrap();
    // SAFETY: it is a child that nobody has waited for yet.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    said
}

/// The id outside of who is root inside.
pub const FIRST_ID: u32 = 100_000;

impl Drop for Bundle {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The thread's mounts: "/dev tmpfs rw,nosuid tmpfs rw,size=64k".
pub fn mounts() -> Vec<String> {
    let listed = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = |line: &str| {
        let (place, kind) = line.split_once(" - ").unwrap();
        let (place, kind): (Vec<_>, Vec<_>) = (place.split(' ').collect(), kind.split(' ').collect());
        let ([_, _, _, _, point, attributes, ..], [kind, source, options]) = (&place[..], &kind[..]) else {
            panic!("{line}");
        };
        format!("{point} {kind} {attributes} {source} {options}")
    };
    listed.lines().map(line).collect()
}

/// Names in a folder, sorted.
pub fn contents(path: impl AsRef<Path>) -> Vec<String> {
    let names = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
