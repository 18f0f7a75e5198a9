//! A container's cgroup with all that its configuration says of it, as far as this machine allows.
use super::{Cgroup, Hierarchy, hierarchy, plan};
use crate::container::{
    Error, Result,
    spec::{Linux, Resources},
};
use rustix::process::geteuid;
use std::io;

/// What came of it.
#[derive(Debug)]
pub struct Placed {
    /// Limited and empty; nothing where none could be made and no limit needs one.
    pub cgroup: Option<Cgroup>,
    /// What is not done and why, for the log. Limits are never among them: those are kept or refused.
    pub left_out: Vec<String>,
}

/// Makes the cgroup of a container and sets its limits and its rules for device nodes. Leaves nothing behind if that
/// fails.
pub fn place(hierarchy: &Hierarchy, linux: &Linux, id: &str) -> Result<Placed> {
    let none = Resources::default();
    let resources = linux.resources.as_ref().unwrap_or(&none);
    let settings = plan::plan(resources)?;
    let mut left_out = Vec::new();
    if hierarchy.mount().is_none() {
        if let Some(setting) = settings.first() {
            return Err(hierarchy::refusal(&setting.key));
        }
        left_out.push("there is no cgroup v2: device nodes are not restricted".to_owned());
        return Ok(Placed { cgroup: None, left_out });
    }
    let path = hierarchy.locate(linux.cgroups_path.as_deref(), id)?;
    let cgroup = match Cgroup::create(hierarchy, &path) {
        Err(error) if is_forbidden(&error) && settings.is_empty() && linux.cgroups_path.is_none() => {
            left_out.push(format!(
                "{}: there is no cgroup, and device nodes are not restricted",
                error.chain()
            ));
            return Ok(Placed { cgroup: None, left_out });
        }
        cgroup => cgroup?,
    };
    let end = cgroup.apply(resources).and_then(|()| {
        match cgroup.restrict_devices(&resources.devices, &linux.devices) {
            // Without privileges of the machine a container can make no nodes either, and sees those that it is given.
            Err(error) if is_forbidden(&error) && (!geteuid().is_root() || in_user_namespace()) => {
                left_out.push(format!("{}: device nodes are not restricted", error.chain()));
                Ok(())
            }
            end => end,
        }
    });
    if let Err(error) = end {
        let _ = cgroup.delete();
        return Err(error);
    }
    Ok(Placed {
        cgroup: Some(cgroup),
        left_out,
    })
}

/// Whether the kernel does not let this user do it.
fn is_forbidden(error: &Error) -> bool {
    let Error::Step { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether ids of this process are not those of the machine.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}
