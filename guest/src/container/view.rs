//! A small view for now.
use super::{Error, Result, blueprint::Blueprint};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, mount_remount,
        unmount,
    },
    process::{chdir, pivot_root},
};
use std::{fs, path::Path};

pub(super) fn mounts(blueprint: &Blueprint) -> Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .map_err(Error::step("slave /"))?;
    let root = &blueprint.rootfs;
    mount_bind_recursive(root, root).map_err(Error::step("bind root"))?;
    for wish in &blueprint.spec.mounts {
        let target = root.join(wish.destination.strip_prefix("/").unwrap_or(&wish.destination));
        let kind = wish.kind.clone().unwrap_or_default();
        let source = wish.source.clone().unwrap_or_default();
        let mut flags = MountFlags::empty();
        let mut data = Vec::new();
        let mut bind = kind == "bind";
        for option in &wish.options {
            match option.as_str() {
                "ro" => flags |= MountFlags::RDONLY,
                "nosuid" => flags |= MountFlags::NOSUID,
                "nodev" => flags |= MountFlags::NODEV,
                "noexec" => flags |= MountFlags::NOEXEC,
                "strictatime" => flags |= MountFlags::STRICTATIME,
                "relatime" => flags |= MountFlags::RELATIME,
                "rbind" | "bind" => bind = true,
                "rprivate" => {}
                other => data.push(other.to_owned()),
            }
        }
        let step = format!("mount {kind} on {}", wish.destination.display());
        if kind == "cgroup" {
            continue;
        }
        if bind {
            let source = blueprint.bundle.join(source);
            if source.is_dir() {
                fs::create_dir_all(&target).ok();
            } else {
                fs::write(&target, "").ok();
            }
            mount_bind_recursive(&source, &target).map_err(Error::step(step.clone()))?;
            mount_remount(&target, flags | MountFlags::BIND, c"").map_err(Error::step(step))?;
        } else {
            fs::create_dir_all(&target).ok();
            let data = std::ffi::CString::new(data.join(",")).unwrap_or_default();
            mount(&source, &target, kind.as_str(), flags, &*data).map_err(Error::step(step))?;
        }
    }
    let dev = root.join("dev");
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = dev.join(name);
        if !target.exists() {
            fs::write(&target, "").ok();
            let _ = mount_bind_recursive(Path::new("/dev").join(name), &target);
        }
    }
    let _ = std::os::unix::fs::symlink("pts/ptmx", dev.join("ptmx"));
    Ok(())
}

pub(super) fn change_root(blueprint: &Blueprint) -> Result<()> {
    chdir(&blueprint.rootfs).map_err(Error::step("chdir"))?;
    pivot_root(".", ".").map_err(Error::step("pivot_root"))?;
    mount_change(".", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM).map_err(Error::step("slave"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Error::step("umount"))?;
    chdir("/").map_err(Error::step("chdir /"))
}
