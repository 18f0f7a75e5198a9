//! The root file system of a container: everything by which its first process makes the file tree that the workload
//! sees. Owns the order of the steps; the system calls are [`System`]'s.
//!
//! | Step | By which process | When |
//! |---|---|---|
//! | [`Rootfs::new`] | any | as soon as the configuration is read; no system call |
//! | [`Rootfs::open_sources`] | the runtime's, outside of the container's namespaces | before the first process is made, and inherited by it; only needed with a user namespace |
//! | [`Rootfs::mount`] | the container's first, in its mount namespace and with all capabilities of its user namespace | first; `createRuntime` hooks may run before or after it, `createContainer` hooks after it |
//! | [`Mounted::console`] or [`Entered::console`] | the same | once the container's terminal is there |
//! | [`Mounted::enter`] | the same | then; what the process has open outside stays open, and must be closed by exec at the latest |
//! | [`Entered::seal`] | the same | after sysctls are written, before capabilities are dropped and `startContainer` hooks run |
//!
//! A failure leaves mounts in the mount namespace alone, which ends with the process, and mount points that were
//! missing in the image. Must never use a path beneath the container's root in any other way than the module `path` does: the
//! image may be hostile, and so may be processes that change it meanwhile.
mod devices;
mod enter;
mod mounts;
mod options;
mod path;
mod seal;

use super::{
    Error, Result,
    spec::{Linux, NamespaceKind, Spec},
    system::{Attributes, CWD, How, OFlags, Propagation, ResolveFlags, System},
};
use devices::Devices;
use mounts::Planned;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A root file system as it is wished for.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    /// `linux.rootfsPropagation`; with `true` also of what is mounted below.
    propagation: Option<(Propagation, bool)>,
    mounts: Vec<Planned>,
    /// Mounts that were prepared outside, by their place in `mounts`.
    sources: BTreeMap<usize, OwnedFd>,
    devices: Devices,
    masked: Vec<PathBuf>,
    read_only_paths: Vec<PathBuf>,
    read_only: bool,
    no_pivot: bool,
}

/// Everything is mounted, and the process's root is still the former one.
#[derive(Debug)]
pub struct Mounted {
    plan: Rootfs,
    root: OwnedFd,
    /// Mounts that become read-only when nothing needs to be made in them any more.
    late: Vec<(OwnedFd, PathBuf)>,
}

/// The process sees the container's files, and nothing else.
#[derive(Debug)]
pub struct Entered {
    plan: Rootfs,
    root: OwnedFd,
    late: Vec<(OwnedFd, PathBuf)>,
}

impl Rootfs {
    /// Checks what the configuration wants; a mount namespace has to be among it. Paths of sources and the root are relative to the bundle, which is absolute.
    ///
    /// # Errors
    /// What makes no sense or is not supported, by its key.
    pub fn new(spec: &Spec, bundle: &Path) -> Result<Self> {
        let root = spec.root.as_ref().filter(|root| !root.path.as_os_str().is_empty());
        let root = root.ok_or_else(|| Error::spec("root.path", "is missing: a container needs a root file system"))?;
        let nothing = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&nothing);
        if linux.mount_label.as_ref().is_some_and(|label| !label.is_empty()) {
            let problem = "labels of SELinux are not supported; leave it out";
            return Err(Error::spec("linux.mountLabel", problem));
        }
        let has = |kind| linux.namespaces.iter().any(|namespace| namespace.kind == kind);
        let mut mounts = Vec::new();
        for (index, mount) in spec.mounts.iter().enumerate() {
            let mut planned = Planned::new(mount, index, bundle)?;
            planned.map_ids(mount, (&linux.uid_mappings, &linux.gid_mappings))?;
            planned.own_cgroups = has(NamespaceKind::Cgroup);
            mounts.push(planned);
        }
        mounts::postpone_read_only(&mut mounts);
        let plan = Self {
            path: bundle.join(&root.path),
            propagation: linux
                .rootfs_propagation
                .as_deref()
                .map(propagation)
                .transpose()?
                .flatten(),
            devices: Devices::new(&linux.devices, &mounts, has(NamespaceKind::User))?,
            mounts,
            sources: BTreeMap::new(),
            masked: below_root("linux.maskedPaths", &linux.masked_paths)?,
            read_only_paths: below_root("linux.readonlyPaths", &linux.readonly_paths)?,
            read_only: root.readonly,
            no_pivot: false,
        };
        if !has(NamespaceKind::Mount) {
            let problem = "has no mount namespace: the mounts would be the host's; add {\"type\": \"mount\"}";
            return Err(Error::spec("linux.namespaces", problem));
        }
        Ok(plan)
    }

    /// The root is changed by chroot(2) and not by pivot_root(2), as on an initramfs, where it is so anyway.
    #[must_use]
    pub fn without_pivot(self, wanted: bool) -> Self {
        Self {
            no_pivot: wanted,
            ..self
        }
    }

    /// Where the image is: absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts' ids can only be mapped by who has power over the file system below, and sources may be out of reach for
    /// the container's own users: opens them with the runtime's power. The descriptors are closed by exec.
    ///
    /// # Errors
    /// The source that cannot be opened or mapped.
    pub fn open_sources(&mut self, sys: &dyn System) -> Result<()> {
        let (first, _) = self.first_propagation();
        for (index, planned) in self.mounts.iter().enumerate() {
            let source = match planned.open_source(sys) {
                // A runtime without root's power can do no more here than the container's first process there.
                Err(Error::Step { source, .. }) if is(&source, libc::EPERM) => continue,
                opened => opened?,
            };
            let Some(source) = source else { continue };
            if first != Propagation::Shared {
                let change = Attributes::spreading(first);
                sys.set_mount((source.as_fd(), Path::new("")), &change, true)
                    .map_err(Error::step(format!(
                        "{}: part it from the host's mounts",
                        planned.wish()
                    )))?;
            }
            planned.prepare_source(sys, source.as_fd())?;
            self.sources.insert(index, source);
        }
        Ok(())
    }

    /// How mounts spread between the runtime's namespace and the container's while the root is being made.
    fn first_propagation(&self) -> (Propagation, bool) {
        match self.propagation {
            Some((Propagation::Shared, recursive)) => (Propagation::Shared, recursive),
            Some((Propagation::Slave, _)) => (Propagation::Slave, true),
            // A mount receives nothing from one that does not receive anything itself.
            None if self.mounts.iter().any(Planned::listens) => (Propagation::Slave, true),
            // What is unbindable cannot become the root; it becomes so at the end.
            Some((Propagation::Private | Propagation::Unbindable, _)) | None => (Propagation::Private, true),
        }
    }

    /// Mounts all there is to mount, and makes the devices.
    ///
    /// # Errors
    /// The step that failed, with its values.
    pub fn mount(mut self, sys: &dyn System) -> Result<Mounted> {
        let umask = sys.set_umask(0);
        let made = self.make(sys);
        sys.set_umask(umask);
        let (root, late) = made?;
        Ok(Mounted { plan: self, root, late })
    }

    fn make(&mut self, sys: &dyn System) -> Result<(OwnedFd, Vec<(OwnedFd, PathBuf)>)> {
        let root = self.bind_root(sys)?;
        let mut late = Vec::new();
        for (index, planned) in self.mounts.iter().enumerate() {
            let mounted = match self.sources.remove(&index) {
                Some(source) => planned.attach_source(sys, root.as_fd(), source)?,
                None => planned.mount(sys, root.as_fd())?,
            };
            if planned.late_read_only {
                late.push((mounted, planned.destination.clone()));
            }
        }
        self.devices.make(sys, root.as_fd())?;
        Ok((root, late))
    }

    /// A root has to be a mount, and one whose mounts nobody else sees.
    fn bind_root(&self, sys: &dyn System) -> Result<OwnedFd> {
        let shown = self.path.display();
        let (first, recursive) = self.first_propagation();
        sys.set_mount((CWD, Path::new("/")), &Attributes::spreading(first), recursive)
            .map_err(Error::step(format!("make the mounts of the namespace {first:?}")))?;
        if first == Propagation::Shared {
            self.hide_root(sys)?;
        }
        let outside = How {
            flags: OFlags::PATH | OFlags::DIRECTORY,
            mode: 0,
            resolve: ResolveFlags::empty(),
        };
        let place = sys
            .open(CWD, &self.path, outside)
            .map_err(Error::step(format!("open the root {shown}")))?;
        let root = sys.copy_mount(place.as_fd(), Path::new(""), true);
        let root = root.map_err(Error::step(format!("copy the mount of the root {shown}")))?;
        sys.attach(root.as_fd(), place.as_fd())
            .map_err(Error::step(format!("mount the root {shown} on itself")))?;
        Ok(root)
    }

    /// What is mounted on a shared mount shows up on the host, and its root can be no other: makes the mount that the
    /// root lies on private.
    fn hide_root(&self, sys: &dyn System) -> Result<()> {
        for parent in self.path.ancestors() {
            match sys.set_mount((CWD, parent), &Attributes::spreading(Propagation::Private), false) {
                // It is not where a mount begins.
                Err(problem) if problem.raw_os_error() == Some(libc::EINVAL) => {}
                done => return done.map_err(Error::step(format!("make the mount on {} private", parent.display()))),
            }
        }
        Ok(())
    }
}

impl Mounted {
    /// The container's root, as a place (`O_PATH`) to open files at with [`How::PLACE`]'s rules.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Puts the terminal's end for the workload on `/dev/console`. It must be of a devpts that the process's mount
    /// namespace has, such as the container's own.
    ///
    /// # Errors
    /// The step that failed.
    pub fn console(&self, sys: &dyn System, terminal: BorrowedFd<'_>) -> Result<()> {
        devices::console(sys, self.root.as_fd(), terminal)
    }

    /// Makes the container's root the process's, and everything that is outside of it unreachable.
    ///
    /// # Errors
    /// The step that failed.
    pub fn enter(self, sys: &dyn System) -> Result<Entered> {
        let Self { plan, root, late } = self;
        enter::enter(sys, root.as_fd(), &plan)?;
        Ok(Entered { plan, root, late })
    }
}

impl Entered {
    /// As [`Mounted::root`].
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// As [`Mounted::console`].
    ///
    /// # Errors
    /// The step that failed.
    pub fn console(&self, sys: &dyn System, terminal: BorrowedFd<'_>) -> Result<()> {
        devices::console(sys, self.root.as_fd(), terminal)
    }

    /// Takes away what is not to be read or written.
    ///
    /// # Errors
    /// The step that failed.
    pub fn seal(self, sys: &dyn System) -> Result<()> {
        let Self { plan, root, late } = self;
        for (mount, shown) in late {
            sys.set_mount((mount.as_fd(), Path::new("")), &Attributes::READ_ONLY, false)
                .map_err(Error::step(format!("make the mount on /{} read-only", shown.display())))?;
        }
        seal::read_only(sys, root.as_fd(), &plan.read_only_paths)?;
        seal::mask(sys, root.as_fd(), &plan.masked)?;
        if plan.read_only {
            sys.set_mount((root.as_fd(), Path::new("")), &Attributes::READ_ONLY, false)
                .map_err(Error::step("make the root read-only"))?;
        }
        Ok(())
    }
}

fn below_root(key: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let cleaned: Vec<_> = paths.iter().map(|path| path::clean(path)).collect();
    if cleaned.iter().any(|path| path.as_os_str().is_empty()) {
        return Err(Error::spec(
            key,
            "the root itself is not to be listed; root.readonly makes it read-only",
        ));
    }
    Ok(cleaned)
}

/// Value of `linux.rootfsPropagation`; "" is none.
fn propagation(value: &str) -> Result<Option<(Propagation, bool)>> {
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = options::Options::parse(&[value.to_owned()]).ok();
    match parsed.as_ref().map(|options| options.propagation.as_slice()) {
        Some([one]) => Ok(Some(*one)),
        _ => Err(Error::spec(
            "linux.rootfsPropagation",
            format!("{value:?} is none of shared, slave, private, unbindable (or rshared and so on)"),
        )),
    }
}

/// Whether the kernel's answer was this error number.
fn is(problem: &io::Error, number: i32) -> bool {
    problem.raw_os_error() == Some(number)
}

#[cfg(test)]
mod tests;
