//! The process of `exec`: from a file, or the container's own with what the flags change.
use crate::arguments::Exec;
use coracle_guest::container::{
    Error, Result,
    exec::{ExecWishes, configuration},
    spec::{Process, User},
    state::Store,
};
use std::fs;

/// What the arguments ask for.
pub(crate) fn wishes(store: &Store, wish: Exec) -> Result<ExecWishes> {
    let mut process = match &wish.process {
        Some(path) => {
            let text = fs::read(path).map_err(Error::step(format!("read the process in {}", path.display())))?;
            serde_json::from_slice(&text)
                .map_err(Error::step(format!("understand the process in {}", path.display())))?
        }
        None => from_flags(store, &wish)?,
    };
    process.terminal |= wish.tty;
    Ok(ExecWishes {
        process,
        detach: wish.detach,
        ignore_paused: wish.ignore_paused,
        console_socket: wish.console_socket,
        pid_file: wish.pid_file,
        preserve_fds: wish.preserve_fds,
        cgroup: wish.cgroup,
    })
}

fn from_flags(store: &Store, wish: &Exec) -> Result<Process> {
    if wish.command.is_empty() {
        return Err(Error::Refused(
            "exec: name a program, or a file with --process".to_owned(),
        ));
    }
    let mut process = configuration(store, &wish.id)?.process.unwrap_or_default();
    process.terminal = false;
    process.console_size = None;
    process.args.clone_from(&wish.command);
    process.env.extend(wish.env.iter().cloned());
    if let Some(cwd) = &wish.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &wish.user {
        process.user = parse_user(user, &process.user)?;
    }
    process.user.additional_gids.extend(&wish.additional_gids);
    process.no_new_privileges |= wish.no_new_privs;
    if wish.apparmor.is_some() {
        process.apparmor_profile.clone_from(&wish.apparmor);
    }
    if wish.process_label.is_some() {
        process.selinux_label.clone_from(&wish.process_label);
    }
    if !wish.cap.is_empty() {
        let capabilities = process.capabilities.get_or_insert_default();
        for set in [
            &mut capabilities.bounding,
            &mut capabilities.effective,
            &mut capabilities.permitted,
        ] {
            set.extend(wish.cap.iter().cloned());
        }
    }
    Ok(process)
}

fn parse_user(text: &str, before: &User) -> Result<User> {
    let wrong = |_| Error::Refused(format!("--user: {text:?} is not UID or UID:GID, in numbers"));
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    Ok(User {
        uid: uid.parse().map_err(wrong)?,
        gid: gid.map_or(Ok(before.gid), str::parse).map_err(wrong)?,
        ..before.clone()
    })
}
