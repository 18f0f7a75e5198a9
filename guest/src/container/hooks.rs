//! Hooks: programs that run at certain points of a container's life, with its state on their standard input
//! (runtime.md § Lifecycle, config.md § POSIX-platform Hooks).
use super::{Error, Result, spec::Hook};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus},
};

/// How much of what a hook says becomes part of an error.
const LONGEST_COMPLAINT: u64 = 2048;

/// Runs hooks one after the other; the first that fails ends it.
pub(super) fn run(key: &str, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(&format!("hooks.{key}[{index}]"), hook, state)?;
    }
    Ok(())
}

/// Runs all hooks; what fails becomes a warning.
pub(super) fn run_all(key: &str, hooks: &[Hook], state: &[u8]) -> Vec<Error> {
    let each = hooks.iter().enumerate();
    each.filter_map(|(index, hook)| run_one(&format!("hooks.{key}[{index}]"), hook, state).err())
        .collect()
}

/// Rules of the specification that hold before anything runs.
pub(super) fn check(key: &str, hooks: &[Hook]) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        let path = hook.path.display();
        if !hook.path.is_absolute() {
            return Err(Error::spec(
                format!("hooks.{key}[{index}].path"),
                format!("{path} is not absolute"),
            ));
        }
        if hook.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(Error::spec(
                format!("hooks.{key}[{index}].timeout"),
                "has to be greater than zero; leave it out for none",
            ));
        }
    }
    Ok(())
}

fn run_one(key: &str, hook: &Hook, state: &[u8]) -> Result<()> {
    let path = hook.path.display();
    let wish = || format!("run {key} {path}");
    let complaint = File::from(memfd_create("hook", MemfdFlags::CLOEXEC).map_err(Error::step(wish()))?);
    let mut child = spawn(hook, state, &complaint).map_err(Error::step(wish()))?;
    let status = wait(&mut child, hook.timeout).map_err(Error::step(wish()))?;
    let problem = match status {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!(
            "it took longer than {} s and was killed",
            hook.timeout.unwrap_or_default()
        ),
    };
    let said = read_complaint(complaint).unwrap_or_default();
    let colon = if said.is_empty() { "" } else { ": " };
    Err(Error::step(wish())(io::Error::other(format!("{problem}{colon}{said}"))))
}

fn spawn(hook: &Hook, state: &[u8], complaint: &File) -> io::Result<Child> {
    let mut input = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    input.write_all(state)?;
    input.rewind()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|line| line.split_once('=')));
    command
        .stdin(input)
        .stdout(complaint.try_clone()?)
        .stderr(complaint.try_clone()?);
    // A hook that takes too long is killed with what it has started.
    command.process_group(0);
    command.spawn()
}

/// How it ended; `None` if it had to be killed.
fn wait(child: &mut Child, timeout: Option<i64>) -> io::Result<Option<ExitStatus>> {
    let Some(seconds) = timeout else {
        return child.wait().map(Some);
    };
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut events = [PollFd::new(&process, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut events, Some(&limit)))? > 0 {
        return child.wait().map(Some);
    }
    kill_process_group(pid, Signal::KILL)?;
    child.wait()?;
    Ok(None)
}

fn read_complaint(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(LONGEST_COMPLAINT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["GREETING=hello".into()],
            timeout: None,
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_the_environment_it_was_given() {
        let hook = shell(r#"test "$(cat)" = state && test "$GREETING" = hello && test -z "$HOME""#);
        run("prestart", &[hook], b"state").unwrap();
    }

    #[test]
    fn the_first_failure_ends_it_and_says_what_the_hook_said() {
        let hooks = [shell("exit 0"), shell("echo no luck >&2; exit 3"), shell("exit 4")];
        let Error::Step { wish, source } = run("createRuntime", &hooks, b"").unwrap_err() else {
            panic!("a step")
        };
        assert_eq!(wish, "run hooks.createRuntime[1] /bin/sh");
        assert_eq!(source.to_string(), "exit status: 3: no luck");
        assert_eq!(run_all("poststop", &hooks, b"").len(), 2);
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let hook = Hook {
            timeout: Some(1),
            ..shell("sleep 60")
        };
        let Error::Step { source, .. } = run("prestart", &[hook], b"").unwrap_err() else {
            panic!("a step")
        };
        assert_eq!(source.to_string(), "it took longer than 1 s and was killed");
    }

    #[test]
    fn wishes_without_sense_are_refused() {
        let relative = Hook {
            path: "bin/true".into(),
            ..Hook::default()
        };
        assert!(
            check("prestart", &[relative])
                .unwrap_err()
                .to_string()
                .contains("not absolute")
        );
        let hasty = Hook {
            timeout: Some(0),
            ..shell("")
        };
        assert!(
            check("poststop", &[hasty])
                .unwrap_err()
                .to_string()
                .contains("hooks.poststop[0].timeout")
        );
    }
}
