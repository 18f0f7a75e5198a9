//! One mount of the configuration: what it comes to, and how it is made.
mod rules;

pub(super) use rules::postpone_read_only;

use super::{
    options::Options,
    path::{self, Missing, Place},
};
use crate::container::{
    Error, Result,
    spec::IdMapping,
    system::{Attributes, CGROUP2_MAGIC, CWD, How, Meta, OFlags, PROC_MAGIC, ResolveFlags, System},
};
use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// File systems of the kernel's own, which have nothing that a read-only superblock would protect.
const PSEUDO: [&str; 8] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "mqueue",
    "cgroup2",
    "bpf",
    "securityfs",
];
const CGROUPS: &str = "/sys/fs/cgroup";

/// A mount that was checked.
#[derive(Debug)]
pub(super) struct Planned {
    /// Without links and relative to the root.
    pub(super) destination: PathBuf,
    kind: Kind,
    options: Options,
    /// As in the configuration, for messages.
    listed: String,
    /// Users and groups.
    ids: Option<(Vec<IdMapping>, Vec<IdMapping>)>,
    /// There is a cgroup namespace of the container's own.
    pub(super) own_cgroups: bool,
    /// It becomes read-only at the end.
    pub(super) late_read_only: bool,
}

#[derive(Debug)]
enum Kind {
    FileSystem { kind: String, source: Option<String> },
    Bind { source: PathBuf },
    Cgroups,
}

impl Planned {
    /// It shows what is mounted already.
    pub(super) fn is_bind(&self) -> bool {
        matches!(self.kind, Kind::Bind { .. })
    }

    /// It wants to hear of the host's mounts, or to tell the host.
    pub(super) fn listens(&self) -> bool {
        use crate::container::system::Propagation::{Shared, Slave};
        self.options
            .propagation
            .iter()
            .any(|(propagation, _)| matches!(propagation, Shared | Slave))
    }

    /// "mount tmpfs on /dev/shm with size=64m".
    pub(super) fn wish(&self) -> String {
        let what = match &self.kind {
            Kind::FileSystem {
                kind,
                source: Some(source),
            } if source != kind => format!("{kind} {source}"),
            Kind::FileSystem { kind, .. } => kind.clone(),
            Kind::Bind { source } => source.display().to_string(),
            Kind::Cgroups => "cgroups".into(),
        };
        let with = if self.listed.is_empty() { "" } else { " with " };
        format!("mount {what} on /{}{with}{}", self.destination.display(), self.listed)
    }

    fn failed(&self, step: &str) -> impl FnOnce(std::io::Error) -> Error {
        Error::step(format!("{}: {step}", self.wish()))
    }

    /// Opens the place, which is made if it is missing.
    fn place(&self, sys: &dyn System, root: BorrowedFd<'_>, source: Option<BorrowedFd<'_>>) -> Result<Place> {
        let found = path::find(sys, root, &self.destination).map_err(self.failed("open the mount point"))?;
        let place = if let Some(place) = found {
            place
        } else {
            let file = match source {
                Some(source) => sys.meta(source).map_err(self.failed("look at the source"))?.kind() != Meta::DIRECTORY,
                None => false,
            };
            let missing = if file { Missing::File } else { Missing::Directory };
            path::make(sys, root, &self.destination, missing)?
        };
        if place.by_link {
            self.check_detour(sys, &place)?;
        }
        Ok(place)
    }

    /// Rules are about paths; a link of the image's must not lead around them.
    fn check_detour(&self, sys: &dyn System, place: &Place) -> Result<()> {
        let refused = |problem: &str| {
            let path = format!("mount on /{}", self.destination.display());
            Err(Error::spec(
                path,
                format!("a symbolic link in the image is on its way, {problem}"),
            ))
        };
        if let Kind::FileSystem { kind, .. } = &self.kind
            && matches!(kind.as_str(), "proc" | "sysfs")
        {
            return refused("which is not followed for proc and sysfs");
        }
        if self.destination.starts_with("proc") {
            return refused("which is not followed in /proc");
        }
        let found = sys
            .file_system(place.fd.as_fd())
            .map_err(self.failed("look at the mount point"))?;
        if found == PROC_MAGIC {
            return refused("and leads into procfs, where nothing can be mounted by that name");
        }
        Ok(())
    }

    /// Mounts it, and gives the mount.
    pub(super) fn mount(&self, sys: &dyn System, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        match &self.kind {
            Kind::FileSystem { kind, source } => self.file_system(sys, root, (kind, source.as_deref())),
            Kind::Cgroups => self.cgroups(sys, root),
            Kind::Bind { .. } => match self.open_source(sys)? {
                Some(source) => {
                    self.prepare_source(sys, source.as_fd())?;
                    self.attach_source(sys, root, source)
                }
                None => Err(self.failed("open the source")(std::io::ErrorKind::NotFound.into())),
            },
        }
    }

    fn file_system(&self, sys: &dyn System, root: BorrowedFd<'_>, what: (&str, Option<&str>)) -> Result<OwnedFd> {
        let (kind, source) = what;
        let place = self.place(sys, root, None)?;
        let mut data = self.options.data.clone();
        // A tmpfs that does not say what it is to be like is like what it covers.
        if kind == "tmpfs" && !self.options.copy_up && !data.iter().any(|option| option.starts_with("mode=")) {
            let covered = sys
                .meta(place.fd.as_fd())
                .map_err(self.failed("look at the mount point"))?;
            data.push(format!("mode={:o}", covered.mode & 0o7777));
        }
        if data.iter().any(|option| rules::is_long(option)) {
            let options = (self.options.flags(), data.join(","));
            sys.mount(
                place.fd.as_fd(),
                kind,
                Path::new(source.unwrap_or("none")),
                (options.0, &options.1),
            )
            .map_err(Error::step(self.wish()))?;
            return path::find(sys, root, &self.destination)
                .and_then(|place| place.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
                .map_or_else(
                    |problem| Err(self.failed("open it again")(problem)),
                    |place| Ok(place.fd),
                );
        }
        let fs = sys.open_fs(kind).map_err(self.failed("open the file system"))?;
        let mounted = self.configured(sys, fs.as_fd(), (kind, source), &data)?;
        if self.options.copy_up {
            sys.copy_tree(place.fd.as_fd(), mounted.as_fd())
                .map_err(self.failed("copy what it covers"))?;
        }
        self.spread(sys, mounted.as_fd())?;
        sys.attach(mounted.as_fd(), place.fd.as_fd())
            .map_err(Error::step(self.wish()))?;
        Ok(mounted)
    }

    fn configured(
        &self,
        sys: &dyn System,
        fs: BorrowedFd<'_>,
        what: (&str, Option<&str>),
        data: &[String],
    ) -> Result<OwnedFd> {
        let failed = |option: &str, problem| {
            let said = sys
                .complaint(fs)
                .map(|said| format!(": the kernel says {said:?}"))
                .unwrap_or_default();
            Error::step(format!("{}{option}{said}", self.wish()))(problem)
        };
        let set = |key: &str, value: Option<&str>| {
            let result = sys.configure_fs(fs, key, value);
            result.map_err(|problem| failed(&format!(": set {key}"), problem))
        };
        if let Some(source) = what.1 {
            set("source", Some(source))?;
        }
        for name in &self.options.common {
            set(name, None)?;
        }
        if self.options.read_only() && !PSEUDO.contains(&what.0) {
            set("ro", None)?;
        }
        for option in data {
            match option.split_once('=') {
                Some((key, value)) => set(key, Some(value))?,
                None => set(option, None)?,
            }
        }
        sys.mount_fs(fs, self.options.attributes())
            .map_err(|problem| failed("", problem))
    }

    fn spread(&self, sys: &dyn System, mount: BorrowedFd<'_>) -> Result<()> {
        for (propagation, recursive) in &self.options.propagation {
            let change = Attributes::spreading(*propagation);
            sys.set_mount((mount, Path::new("")), &change, *recursive)
                .map_err(self.failed(&format!("make it {propagation:?}")))?;
        }
        Ok(())
    }

    /// A mount of the source that is nowhere yet; none if this is no bind mount.
    pub(super) fn open_source(&self, sys: &dyn System) -> Result<Option<OwnedFd>> {
        let Kind::Bind { source } = &self.kind else {
            return Ok(None);
        };
        let recursive = self.options.bind.unwrap_or(false);
        let opened = sys
            .copy_mount(CWD, source, recursive)
            .map_err(self.failed("open the source"))?;
        if self.destination == Path::new("proc") {
            let found = sys
                .file_system(opened.as_fd())
                .map_err(self.failed("look at the source"))?;
            if found != PROC_MAGIC {
                let problem = format!(
                    "{} is no procfs, and nothing else can be mounted there",
                    source.display()
                );
                return Err(Error::spec("mount on /proc", problem));
            }
        }
        Ok(Some(opened))
    }

    /// Ids and attributes of a bind mount. It keeps what its source has, unless an option says otherwise.
    pub(super) fn prepare_source(&self, sys: &dyn System, source: BorrowedFd<'_>) -> Result<()> {
        let at = (source, Path::new(""));
        if let Some((uids, gids)) = &self.ids {
            let namespace = sys
                .user_namespace(uids, gids)
                .map_err(self.failed("make a user namespace with its ids"))?;
            let change = Attributes {
                ids_of: Some(namespace.as_fd()),
                ..Attributes::NONE
            };
            sys.set_mount(at, &change, self.options.ids.unwrap_or(false))
                .map_err(self.failed("map its ids, which not every file system knows how to"))?;
        }
        for (wanted, recursive) in [(self.options.all, true), (self.options.own, false)] {
            if !wanted.is_none() {
                let change = Attributes {
                    set: wanted.set,
                    clear: wanted.clear,
                    ..Attributes::NONE
                };
                sys.set_mount(at, &change, recursive)
                    .map_err(self.failed("set its attributes"))?;
            }
        }
        self.spread(sys, source)
    }

    /// Attaches a prepared source to its place.
    pub(super) fn attach_source(&self, sys: &dyn System, root: BorrowedFd<'_>, source: OwnedFd) -> Result<OwnedFd> {
        let place = self.place(sys, root, Some(source.as_fd()))?;
        sys.attach(source.as_fd(), place.fd.as_fd())
            .map_err(Error::step(self.wish()))?;
        Ok(source)
    }

    /// With a cgroup namespace, the hierarchy as it begins there; without, the process's part of the host's. Where the
    /// host has cgroup v1, its hierarchies, which can be looked at alone: the container has no part of its own in them.
    fn cgroups(&self, sys: &dyn System, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let how = How {
            flags: OFlags::PATH,
            mode: 0,
            resolve: ResolveFlags::empty(),
        };
        let host = sys
            .open(CWD, Path::new(CGROUPS), how)
            .map_err(self.failed("look at the host's"))?;
        let v2 = sys
            .file_system(host.as_fd())
            .map_err(self.failed("look at the host's"))?
            == CGROUP2_MAGIC;
        if v2 && self.own_cgroups {
            return self.file_system(sys, root, ("cgroup2", Some("cgroup")));
        }
        let own = if v2 {
            self.own_cgroup(sys)?
        } else {
            PathBuf::from(CGROUPS)
        };
        let source = sys
            .copy_mount(CWD, &own, true)
            .map_err(self.failed("open the host's"))?;
        let mut set = self.options.attributes();
        if !v2 {
            set |= Attributes::READ_ONLY.set;
        }
        if !set.is_empty() {
            let change = Attributes {
                set,
                ..Attributes::NONE
            };
            sys.set_mount((source.as_fd(), Path::new("")), &change, true)
                .map_err(self.failed("set its attributes"))?;
        }
        self.spread(sys, source.as_fd())?;
        self.attach_source(sys, root, source)
    }

    fn own_cgroup(&self, sys: &dyn System) -> Result<PathBuf> {
        let listed = sys
            .read(Path::new("/proc/thread-self/cgroup"))
            .map_err(self.failed("read /proc/thread-self/cgroup"))?;
        let own = listed
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        Ok(Path::new(CGROUPS).join(own))
    }
}
