//! Options of a mount, as in fstab (mount(8)) and as the specification adds to them (config.md § Linux mount options).
use crate::container::system::{MountAttrFlags, MountFlags, Propagation};

/// What the options of one mount come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Options {
    /// A bind mount; with `true` also of what is mounted below the source.
    pub(super) bind: Option<bool>,
    /// Of the mount itself.
    pub(super) own: Change,
    /// Of it and of what is mounted below.
    pub(super) all: Change,
    /// In this order; with `true` also of what is mounted below.
    pub(super) propagation: Vec<(Propagation, bool)>,
    /// Of the file system, as all file systems have them.
    pub(super) common: Vec<&'static str>,
    /// Of the file system, as it alone has them.
    pub(super) data: Vec<String>,
    /// A tmpfs begins with what it covers.
    pub(super) copy_up: bool,
    /// Ids are mapped; with `true` also of what is mounted below.
    pub(super) ids: Option<bool>,
}

/// Attributes to set and to take away; a later option undoes an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: MountAttrFlags,
    pub(super) clear: MountAttrFlags,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
        }
    }
}

impl Change {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    fn apply(&mut self, attribute: MountAttrFlags, on: bool) {
        self.set.set(attribute, on);
        self.clear.set(attribute, !on);
    }

    fn time(&mut self, attribute: MountAttrFlags) {
        self.set = self.set.difference(MountAttrFlags::MOUNT_ATTR__ATIME) | attribute;
        self.clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
    }
}

enum Effect {
    Bind(bool),
    On(MountAttrFlags),
    Off(MountAttrFlags),
    Time(MountAttrFlags),
    Spread(Propagation),
    Common(&'static str),
    CopyUp,
    Ids(bool),
    Nothing,
    Refused(&'static str),
}

const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// What an option does that file systems do not see. None: it is the file system's own.
fn effect(option: &str) -> Option<Effect> {
    use Effect::{Bind, Common, CopyUp, Ids, Nothing, Refused};
    Some(match option {
        "bind" => Bind(false),
        "rbind" => Bind(true),
        "sync" => Common("sync"),
        "dirsync" => Common("dirsync"),
        "lazytime" => Common("lazytime"),
        "mand" => Common("mand"),
        "defaults" | "async" | "nolazytime" | "nomand" | "silent" | "loud" | "noiversion" | "norelatime" => Nothing,
        "tmpcopyup" => CopyUp,
        "idmap" => Ids(false),
        "ridmap" => Ids(true),
        "remount" => {
            Refused("a container has no mounts yet that could be mounted again; give the wanted options at once")
        }
        "iversion" => Refused("leave it out: the kernel decides on it by itself"),
        other => return attribute(other),
    })
}

/// Attributes of mounts and propagation.
fn attribute(option: &str) -> Option<Effect> {
    use Effect::{Off, On, Spread, Time};
    Some(match option {
        "ro" => On(READ_ONLY),
        "rw" => Off(READ_ONLY),
        "nosuid" => On(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "suid" => Off(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "nodev" => On(MountAttrFlags::MOUNT_ATTR_NODEV),
        "dev" => Off(MountAttrFlags::MOUNT_ATTR_NODEV),
        "noexec" => On(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "exec" => Off(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        "nodiratime" => On(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "diratime" => Off(MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => On(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Off(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Time(MountAttrFlags::MOUNT_ATTR_NOATIME),
        "strictatime" => Time(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => Time(MountAttrFlags::MOUNT_ATTR_RELATIME),
        "shared" => Spread(Propagation::Shared),
        "slave" => Spread(Propagation::Slave),
        "private" => Spread(Propagation::Private),
        "unbindable" => Spread(Propagation::Unbindable),
        _ => return None,
    })
}

impl Options {
    /// The error says which option, and why not.
    pub(super) fn parse(options: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for option in options {
            match effect(option) {
                Some(effect) => parsed.take(option, &effect)?,
                // `rro` is `ro` for everything below as well, and so on.
                None => match option.strip_prefix('r').and_then(attribute) {
                    Some(effect) => parsed.take_below(&effect),
                    None if option.starts_with("idmap=") || option.starts_with("ridmap=") => {
                        return Err(format!(
                            "{option:?}: mappings are not part of an option here; write them as uidMappings and gidMappings"
                        ));
                    }
                    None => parsed.data.push(option.clone()),
                },
            }
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str, effect: &Effect) -> Result<(), String> {
        match *effect {
            Effect::Bind(recursive) => self.bind = Some(recursive),
            Effect::On(attribute) => self.own.apply(attribute, true),
            Effect::Off(attribute) => self.own.apply(attribute, false),
            Effect::Time(attribute) => self.own.time(attribute),
            Effect::Spread(propagation) => self.propagation.push((propagation, false)),
            Effect::Common(name) => self.common.push(name),
            Effect::CopyUp => self.copy_up = true,
            Effect::Ids(recursive) => self.ids = Some(recursive),
            Effect::Nothing => {}
            Effect::Refused(reason) => return Err(format!("{option:?}: {reason}")),
        }
        Ok(())
    }

    fn take_below(&mut self, effect: &Effect) {
        match *effect {
            Effect::On(attribute) => self.all.apply(attribute, true),
            Effect::Off(attribute) => self.all.apply(attribute, false),
            Effect::Time(attribute) => self.all.time(attribute),
            Effect::Spread(propagation) => self.propagation.push((propagation, true)),
            // `attribute` gives no others.
            _ => {}
        }
    }

    /// The mount itself is to be read-only.
    pub(super) fn read_only(&self) -> bool {
        self.own.set.contains(READ_ONLY)
    }

    /// Writing is left for later: says whether it was wanted.
    pub(super) fn take_read_only(&mut self) -> bool {
        let wanted = self.read_only();
        self.own.set.remove(READ_ONLY);
        wanted
    }

    /// Attributes of a new mount, which has nothing below it.
    pub(super) fn attributes(&self) -> MountAttrFlags {
        self.own.set | self.all.set
    }

    /// The same and the common options for mount(2).
    pub(super) fn flags(&self) -> MountFlags {
        const ATTRIBUTES: [(MountAttrFlags, MountFlags); 8] = [
            (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
            (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
            (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
            (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
            (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
            (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
            (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
        ];
        const COMMON: [(&str, MountFlags); 4] = [
            ("sync", MountFlags::SYNCHRONOUS),
            ("dirsync", MountFlags::DIRSYNC),
            ("lazytime", MountFlags::LAZYTIME),
            ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        ];
        let wanted = self.attributes();
        let attributes = ATTRIBUTES.iter().filter(|(attribute, _)| wanted.contains(*attribute));
        let common = COMMON.iter().filter(|(name, _)| self.common.contains(name));
        let flags = attributes.map(|(_, flag)| *flag).chain(common.map(|(_, flag)| *flag));
        flags.fold(MountFlags::empty(), |all, flag| all | flag)
    }
}
