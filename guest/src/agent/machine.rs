//! The guest as a machine: mounts, frozen file systems, entropy, clock, power.
use super::{
    End,
    outbox::{Asker, DONE, Reply, invalid, refused},
    place::{Place, absolute},
    sys,
};
use coracle_protocol::sandbox::{
    Answer, Failed,
    machine::{Clock, Clocks, Entropy, MAX_ENTROPY, Mount, Power, Umount},
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, mount_remount, unmount},
    process::{Pid, Signal, kill_process_group, test_kill_process_group},
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};
use std::{
    ffi::CString,
    fs::File,
    thread,
    time::{Duration, Instant},
};

/// Flags that are flags of the mount call.
const FLAGS: &[(&str, MountFlags)] = &[
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
    ("bind", MountFlags::BIND),
    ("rbind", MountFlags::BIND.union(MountFlags::REC)),
];

/// Flags that say how mounts spread.
const SPREAD: &[(&str, MountPropagationFlags)] = &[
    ("private", MountPropagationFlags::PRIVATE),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("shared", MountPropagationFlags::SHARED),
    ("unbindable", MountPropagationFlags::UNBINDABLE),
];

/// What the flags of a mount ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wishes {
    flags: MountFlags,
    remount: bool,
    spread: Vec<MountPropagationFlags>,
}

impl Wishes {
    fn parse(names: &[String]) -> Result<Self, Failed> {
        let mut wishes = Self {
            flags: MountFlags::empty(),
            remount: false,
            spread: Vec::new(),
        };
        for name in names {
            let (plain, recursive) = match name.strip_prefix('r') {
                Some(plain) if SPREAD.iter().any(|(known, _)| *known == plain) => (plain, MountPropagationFlags::REC),
                _ => (name.as_str(), MountPropagationFlags::empty()),
            };
            if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| known == name) {
                wishes.flags |= *flag;
            } else if let Some((_, flag)) = SPREAD.iter().find(|(known, _)| *known == plain) {
                wishes.spread.push(*flag | recursive);
            } else if name == "remount" {
                wishes.remount = true;
            } else {
                return Err(invalid(format!(
                    "{name:?} is no flag of a mount: options of the file system itself go into data"
                )));
            }
        }
        Ok(wishes)
    }
}

pub(super) fn mount(wish: Mount) -> Reply {
    absolute(&wish.target)?;
    let wishes = Wishes::parse(&wish.flags)?;
    let fail = || refused(format!("mount {} on {}", wish.source, wish.target));
    let text = |text: &str| CString::new(text).map_err(|_| invalid("a text with a NUL byte"));
    let (source, kind, data) = (text(&wish.source)?, text(&wish.kind)?, text(&wish.data)?);
    if wish.mkdir {
        let made = Place::new(None)?.make_folders(&wish.target, 0o755);
        made.map_err(refused(format!("make the folder {}", wish.target)))?;
    }
    let bind = MountFlags::BIND | MountFlags::REC;
    if wishes.remount {
        mount_remount(wish.target.as_str(), wishes.flags, data.as_c_str()).map_err(fail())?;
    } else if wishes.flags.contains(MountFlags::BIND) {
        rustix::mount::mount(
            source.as_c_str(),
            wish.target.as_str(),
            c"",
            wishes.flags & bind,
            data.as_c_str(),
        )
        .map_err(fail())?;
        // A bind takes no other flags; a second step gives them.
        let others = wishes.flags - bind;
        if !others.is_empty() {
            let flags = others | MountFlags::BIND;
            mount_remount(wish.target.as_str(), flags, c"").map_err(fail())?;
        }
    } else if !wish.kind.is_empty() {
        let (source, kind) = (source.as_c_str(), kind.as_c_str());
        rustix::mount::mount(source, wish.target.as_str(), kind, wishes.flags, data.as_c_str()).map_err(fail())?;
    } else if wishes.spread.is_empty() {
        return Err(invalid(
            "there is nothing to mount: give a kind, or one of bind, remount, private, slave, shared",
        ));
    }
    for spread in wishes.spread {
        mount_change(wish.target.as_str(), spread).map_err(fail())?;
    }
    Ok(DONE)
}

pub(super) fn umount(wish: Umount) -> Reply {
    absolute(&wish.target)?;
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, wish.lazy);
    unmount(wish.target.as_str(), flags).map_err(refused(format!("unmount {}", wish.target)))?;
    Ok(DONE)
}

pub(super) fn freeze(path: &str, still: bool) -> Reply {
    absolute(path)?;
    let wish = if still { "freeze" } else { "thaw" };
    let folder = File::open(path).map_err(refused(format!("open {path}")))?;
    sys::freeze(&folder, still).map_err(refused(format!("{wish} the file system of {path}")))?;
    Ok(DONE)
}

pub(super) fn entropy(wish: &Entropy) -> Reply {
    if wish.bytes.is_empty() || wish.bytes.len() > MAX_ENTROPY {
        return Err(invalid(format!("entropy has from 1 to {MAX_ENTROPY} bytes")));
    }
    let random = File::open("/dev/urandom").map_err(refused("open /dev/urandom"))?;
    sys::add_entropy(&random, &wish.bytes).map_err(refused("add entropy"))?;
    Ok(DONE)
}

pub(super) fn clock(wish: Clock) -> Reply {
    if let Some(nanos) = wish.set {
        let seconds = i64::try_from(nanos / 1_000_000_000).map_err(|_| invalid("the time is out of range"))?;
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        clock_settime(ClockId::Realtime, time).map_err(refused("set the clock"))?;
    }
    let now = |clock, unit: u64| {
        let time = clock_gettime(clock);
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        part(time.tv_sec) * unit + part(time.tv_nsec) / (1_000_000_000 / unit)
    };
    Ok(Answer::Clock(Clocks {
        now: now(ClockId::Realtime, 1_000_000_000),
        boot: now(ClockId::Boottime, 1_000_000),
    }))
}

/// Ends all processes but this one, and says how the machine shall end.
pub(super) fn power(wish: Power, asker: &Asker) -> End {
    asker.answer(Ok(DONE));
    // For the kernel the group of PID 1 means everybody else.
    let everybody = Pid::INIT;
    if wish.grace_ms > 0 {
        let until = Instant::now() + Duration::from_millis(wish.grace_ms.into());
        let _ = kill_process_group(everybody, Signal::TERM);
        let _ = kill_process_group(everybody, Signal::CONT);
        while Instant::now() < until && test_kill_process_group(everybody).is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    let _ = kill_process_group(everybody, Signal::KILL);
    if wish.restart { End::Restart } else { End::Off }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<Wishes, Failed> {
        Wishes::parse(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_mounts() {
        let wishes = parse(&["ro", "rbind", "rslave", "private", "relatime"]).unwrap();
        let flags = MountFlags::RDONLY | MountFlags::BIND | MountFlags::REC | MountFlags::RELATIME;
        assert_eq!((wishes.flags, wishes.remount), (flags, false));
        assert_eq!(
            wishes.spread,
            [
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
                MountPropagationFlags::PRIVATE
            ]
        );
        assert!(parse(&["remount"]).unwrap().remount);
        assert!(parse(&["size=3"]).unwrap_err().text.contains("data"));
        assert!(parse(&["rro"]).is_err());
    }
}
