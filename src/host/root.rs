//! The emulated host's initial file system: the agent, the modules, a small userland, the C library. Reads files and
//! computes bytes; starts nothing but Debian's package tools, on the caller's thread.
use super::{HostArch, HostError};
use crate::bundle::{cpio::Archive, debian::Package, modules::Tree};
use coracle_protocol::agent::{MODULES_FILE, SETUP_FILE, Setup};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Modules of the host by name, in the order in which they should be loaded; dependencies come by themselves.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "tun",
    "overlay",
    "loop",
    "veth",
    "bridge",
];
/// Those that an architecture may have built in or not have at all.
const KVM_MODULES: &[(HostArch, &[&str])] = &[(HostArch::X86_64, &["irqbypass", "kvm", "kvm_amd"])];

/// Commands of busybox that get a name of their own.
const APPLETS: &str = "ash awk base64 basename cat chmod chown cmp cp cut date dd df diff dirname dmesg du echo env \
    expr false find free grep gunzip gzip head hexdump hostname id ifconfig insmod ip kill killall less ln losetup ls \
    lsmod md5sum mkdir mkfifo mknod mktemp mount mountpoint mv nc nproc od ping poweroff printf ps pwd readlink \
    realpath reboot rm rmdir rmmod route sed seq setsid sh sha256sum sleep sort stat strings stty sync tail tar taskset \
    tee test time timeout top touch tr true truncate tty tunctl umount uname uniq uptime usleep vi wc wget which xargs \
    xz yes zcat";

/// A kernel that the host can boot, and its modules.
#[derive(Debug, Clone)]
pub(crate) struct KernelTree {
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

impl KernelTree {
    /// `$CORACLE_HOST_KERNEL_<ARCH>` (a folder with `boot/` and `lib/modules/`), or Debian's cloud kernel.
    pub(crate) fn find(arch: HostArch, cache: &Path, progress: &dyn Fn(&str)) -> Result<Self, HostError> {
        let tree = if let Some(dir) = env::var_os(arch.variable("CORACLE_HOST_KERNEL")) {
            PathBuf::from(dir)
        } else {
            let meta = format!("linux-image-cloud-{}", arch.debian());
            let packages = cache.join("packages");
            Package::fetch_dependency((&meta, "linux-image-"), arch.debian(), &packages, progress)
                .map_err(|source| HostError::Kernel {
                    arch,
                    source: Box::new(source),
                })?
                .tree
        };
        let boot = tree.join("boot");
        let image = fs::read_dir(&boot)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
            })
            .max()
            .ok_or(HostError::NoKernelImage(boot))?;
        // Since Debian 13 /lib is a link to usr/lib.
        let modules = ["usr/lib/modules", "lib/modules"]
            .map(|dir| tree.join(dir))
            .into_iter()
            .find(|dir| dir.is_dir())
            .unwrap_or_else(|| tree.join("lib/modules"));
        Ok(Self { image, modules })
    }
}

/// The bytes of the initial file system without its setup.
pub(crate) fn base(
    arch: HostArch,
    kernel: &KernelTree,
    cache: &Path,
    progress: &dyn Fn(&str),
) -> Result<Vec<u8>, HostError> {
    let mut root = Archive::new();
    for dir in [
        "proc", "sys", "run", "root", "etc", "mnt", "var/tmp", "dev", "coracle", "usr/bin",
    ] {
        root.directory(dir, 0o755)?;
    }
    root.directory("tmp", 0o1777)?;
    root.character_device("dev/console", 0o600, 5, 1)?;
    root.file("init", 0o755, read(&find_guest(arch)?)?)?;
    root.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n".to_vec())?;
    root.file("etc/group", 0o644, b"root:x:0:\ntty:x:5:\n".to_vec())?;
    root.file("etc/hosts", 0o644, b"127.0.0.1 localhost coracle-host\n".to_vec())?;
    root.file("etc/resolv.conf", 0o644, b"nameserver 10.0.2.3\n".to_vec())?;
    add_modules(&mut root, arch, kernel)?;
    add_busybox(&mut root, arch, cache, progress)?;
    add_passt(&mut root, arch, cache, progress)?;
    add_libraries(&mut root, arch)?;
    Ok(root.to_bytes())
}

/// The part that holds the agent's setup, to be joined to [`base`]. Only root of the host can read it.
pub(crate) fn setup(setup: &Setup) -> Result<Archive, HostError> {
    let mut bytes = Vec::new();
    coracle_protocol::frame::write(&mut bytes, setup)?;
    let mut part = Archive::new();
    part.file(SETUP_FILE, 0o600, bytes)?;
    Ok(part)
}

fn add_modules(root: &mut Archive, arch: HostArch, kernel: &KernelTree) -> Result<(), HostError> {
    let tree = Tree::open(&kernel.modules)?;
    let mut names: Vec<&str> = MODULES.iter().copied().filter(|name| tree.has(name)).collect();
    for (_, more) in KVM_MODULES.iter().filter(|(of, _)| *of == arch) {
        names.extend(more.iter());
    }
    let mut list = String::new();
    for module in tree.resolve(&names)? {
        let path = format!("/coracle/{}.ko", module.name);
        root.file(&path, 0o644, module.read()?)?;
        list.push_str(&path);
        list.push('\n');
    }
    root.file(MODULES_FILE, 0o644, list.into_bytes())?;
    Ok(())
}

fn add_busybox(root: &mut Archive, arch: HostArch, cache: &Path, progress: &dyn Fn(&str)) -> Result<(), HostError> {
    let own = Path::new("/bin/busybox");
    let busybox = if arch.is_native() && own.is_file() {
        own.to_path_buf()
    } else {
        let package = Package::fetch("busybox-static", arch.debian(), &cache.join("packages"), progress);
        let package = package.map_err(|source| HostError::Busybox {
            arch,
            source: Box::new(source),
        })?;
        ["bin/busybox", "usr/bin/busybox"]
            .map(|path| package.tree.join(path))
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| package.tree.join("bin/busybox"))
    };
    root.file("bin/busybox", 0o755, read(&busybox)?)?;
    for name in APPLETS.split_whitespace() {
        root.symlink(&format!("bin/{name}"), "busybox")?;
    }
    // For scripts that begin with `#!/usr/bin/env`.
    root.symlink("usr/bin/env", "../../bin/busybox")?;
    Ok(())
}

/// The user-mode network of VMs that have one. A host without it still runs all others.
fn add_passt(root: &mut Archive, arch: HostArch, cache: &Path, progress: &dyn Fn(&str)) -> Result<(), HostError> {
    let own = Path::new("/usr/bin/passt");
    let passt = if arch.is_native() && own.is_file() {
        own.to_path_buf()
    } else {
        match Package::fetch("passt", arch.debian(), &cache.join("packages"), progress) {
            Ok(package) => package.tree.join("usr/bin/passt"),
            Err(error) => {
                progress(&format!("the emulated host has no passt: {error}"));
                return Ok(());
            }
        }
    };
    root.file("usr/bin/passt", 0o755, read(&passt)?)?;
    Ok(())
}

/// The C library, for programs that are not static: test binaries above all. Left out where the machine has none for
/// this architecture, since static programs do without.
fn add_libraries(root: &mut Archive, arch: HostArch) -> Result<(), HostError> {
    let triple = format!("{}-linux-gnu", arch.name());
    let (loader, loader_dir) = arch.loader();
    let folders = [
        PathBuf::from(format!("/lib/{triple}")),
        PathBuf::from(format!("/usr/lib/{triple}")),
        PathBuf::from(format!("/usr/{triple}/lib")),
    ];
    for name in [
        loader,
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
    ] {
        let Some(file) = folders.iter().map(|dir| dir.join(name)).find(|file| file.is_file()) else {
            continue;
        };
        let to = if name == loader {
            loader_dir.to_string()
        } else {
            format!("lib/{triple}")
        };
        root.file(&format!("{to}/{name}"), 0o755, read(&file)?)?;
    }
    Ok(())
}

/// The agent's program: `$CORACLE_GUEST_<ARCH>`, else beside this executable, else where cargo puts it.
fn find_guest(arch: HostArch) -> Result<PathBuf, HostError> {
    super::find_sibling("coracle-guest", "CORACLE_GUEST", arch)
}

fn read(path: &Path) -> Result<Vec<u8>, HostError> {
    fs::read(path).map_err(|source| HostError::File {
        wish: "read",
        path: path.to_path_buf(),
        source,
    })
}
