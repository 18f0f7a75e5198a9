//! What a mount of the configuration may be.
use super::{Kind, Planned};
use crate::container::{
    Error, Result,
    rootfs::{options::Options, path},
    spec::{IdMapping, Mount},
};
use std::path::Path;

/// What tools lay over files of procfs to show the container's own numbers; anything else there could be meant to
/// deceive a runtime or the kernel's protections.
const PROC_FILES: [&str; 11] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/net/dev",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/sys/crypto/fips_enabled",
    "proc/sys/kernel/ns_last_pid",
    "proc/uptime",
];
/// Bytes of an option's value that fsconfig(2) takes.
const LONGEST_VALUE: usize = 255;

impl Planned {
    pub(in crate::container::rootfs) fn new(mount: &Mount, index: usize, bundle: &Path) -> Result<Self> {
        let wrong = |field: &str, problem: String| Error::spec(format!("mounts[{index}].{field}"), problem);
        let options = Options::parse(&mount.options).map_err(|problem| wrong("options", problem))?;
        let destination = path::clean(&mount.destination);
        if destination.as_os_str().is_empty() {
            return Err(wrong(
                "destination",
                format!("{} is the root itself", mount.destination.display()),
            ));
        }
        let source = mount.source.as_ref().filter(|source| !source.as_os_str().is_empty());
        let kind = match mount.kind.as_deref() {
            _ if options.bind.is_some() => None,
            Some("bind") => None,
            Some("cgroup" | "cgroup2") => Some(Kind::Cgroups),
            Some(kind) if !kind.is_empty() && kind != "none" => Some(Kind::FileSystem {
                kind: kind.to_owned(),
                source: source.map(|source| source.to_string_lossy().into_owned()),
            }),
            other => {
                let problem = format!("{other:?} is no file system; a bind mount has the option bind or rbind");
                return Err(wrong("type", problem));
            }
        };
        let kind = match (kind, source) {
            (Some(kind), _) => kind,
            (None, Some(source)) => Kind::Bind {
                source: bundle.join(source),
            },
            (None, None) => return Err(wrong("source", "is missing: a bind mount needs one".into())),
        };
        let planned = Self {
            destination,
            kind,
            options,
            listed: mount.options.join(","),
            ids: None,
            own_cgroups: false,
            late_read_only: false,
        };
        planned.check_options().map_err(|problem| wrong("options", problem))?;
        planned
            .check_destination()
            .map_err(|problem| wrong("destination", problem))?;
        Ok(planned)
    }

    fn check_options(&self) -> std::result::Result<(), String> {
        let options = &self.options;
        match &self.kind {
            Kind::Bind { .. } => {
                let foreign = options
                    .common
                    .first()
                    .copied()
                    .or(options.data.first().map(String::as_str));
                if let Some(option) = foreign {
                    return Err(format!(
                        "{option:?} is of a whole file system; a bind mount shows part of a mounted one"
                    ));
                }
                if options.copy_up {
                    return Err("\"tmpcopyup\" is for a tmpfs, not for a bind mount".into());
                }
            }
            Kind::FileSystem { kind, .. } if kind == "tmpfs" => {}
            _ if options.copy_up => return Err("\"tmpcopyup\" is for a tmpfs alone".into()),
            _ => {}
        }
        let long = options.data.iter().any(|option| is_long(option));
        if long && !options.propagation.is_empty() {
            return Err(format!(
                "an option longer than {LONGEST_VALUE} bytes cannot go together with propagation"
            ));
        }
        Ok(())
    }

    fn check_destination(&self) -> std::result::Result<(), String> {
        let shown = self.destination.display();
        if self.destination == Path::new("proc") {
            return match &self.kind {
                Kind::FileSystem { kind, .. } if kind == "proc" => Ok(()),
                Kind::Bind { .. } => Ok(()),
                _ => Err(format!(
                    "/{shown} must be a procfs: the kernel's and the runtime's protections rely on it"
                )),
            };
        }
        let listed = PROC_FILES.iter().any(|file| self.destination == Path::new(file));
        if self.destination.starts_with("proc") && !listed {
            return Err(format!(
                "/{shown} is inside of procfs, where only these can be mounted on: {}",
                PROC_FILES.map(|file| format!("/{file}")).join(", ")
            ));
        }
        Ok(())
    }

    /// Takes the mappings of the mount, or the container's if it names none.
    pub(in crate::container::rootfs) fn map_ids(
        &mut self,
        mount: &Mount,
        container: (&[IdMapping], &[IdMapping]),
    ) -> Result<()> {
        let own = (mount.uid_mappings.as_slice(), mount.gid_mappings.as_slice());
        let ids = match (own, self.options.ids) {
            (([], []), None) => return Ok(()),
            (([], []), Some(_)) => container,
            _ => own,
        };
        let wrong = |problem: &str| {
            Err(Error::spec(
                format!("mount on /{}", self.destination.display()),
                problem,
            ))
        };
        if ids.0.is_empty() || ids.1.is_empty() {
            return wrong("mapped ids need both uidMappings and gidMappings, of the mount or of the container");
        }
        if !matches!(self.kind, Kind::Bind { .. }) {
            return wrong("ids can be mapped for bind mounts alone");
        }
        self.ids = Some((ids.0.to_vec(), ids.1.to_vec()));
        Ok(())
    }
}

/// It is more than fsconfig(2) takes.
pub(super) fn is_long(option: &str) -> bool {
    option.split_once('=').map_or(option, |(_, value)| value).len() > LONGEST_VALUE
}

/// A mount in which something is made later on cannot be read-only before.
pub(in crate::container::rootfs) fn postpone_read_only(mounts: &mut [Planned]) {
    for at in 0..mounts.len() {
        let Some((planned, later)) = mounts.get_mut(at..).and_then(<[_]>::split_first_mut) else {
            return;
        };
        let fixed = matches!(&planned.kind, Kind::FileSystem { kind, .. } if kind == "sysfs" || kind == "proc");
        let inside = |other: &Planned| other.destination.starts_with(&planned.destination);
        let needed = planned.destination == Path::new("dev") || later.iter().any(inside);
        if needed && !fixed {
            planned.late_read_only = planned.options.take_read_only();
        }
    }
}
