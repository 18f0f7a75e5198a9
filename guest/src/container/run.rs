//! `run`: a container from its making to its end by one command, which is the parent of its first process.
use super::{
    Error, Result,
    create::{Hold, Wishes, make},
    foreground::{Signals, stay},
    lifecycle::{self, Warn, run_poststart},
    state::Store,
};
use rustix::process::set_child_subreaper;

/// What becomes of the container and its orphans.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// The command does not wait for it.
    pub detach: bool,
    /// It is not deleted when it has ended.
    pub keep: bool,
    /// Its orphans, where it has no PID namespace, do not become this command's.
    pub no_subreaper: bool,
}

/// Makes a container and lets it run at once; the exit code of its process, or 0 if nobody waits for it.
pub fn run(store: &Store, id: &str, wishes: &Wishes, manner: Manner, warn: Warn<'_>) -> Result<u8> {
    let signals = if manner.detach { None } else { Some(Signals::hold()?) };
    let hold = if manner.detach {
        Hold::Detached
    } else {
        Hold::Foreground
    };
    if signals.is_some() && !manner.no_subreaper {
        set_child_subreaper(Some(rustix::process::getpid())).map_err(Error::step("become the reaper of orphans"))?;
    }
    let made = make(store, id, wishes, hold, warn)?.finish(wishes, warn)?;
    // The end of the file comes with the start of the program.
    if let Err(error) = made.channel.receive() {
        made.abandon(warn);
        return Err(error);
    }
    // Hooks and others may act on the container from now on.
    drop(made.folder);
    let poststart = made
        .blueprint
        .spec
        .hooks
        .as_ref()
        .map_or(&[][..], |hooks| &hooks.poststart);
    run_poststart(&made.record, poststart, warn);
    let Some(signals) = signals else { return Ok(0) };
    let code = stay(made.process, &signals, made.terminal)?;
    if !manner.keep {
        match lifecycle::delete(store, id, false, warn) {
            // Somebody else was faster.
            Err(Error::State { .. }) => {}
            result => result?,
        }
    }
    Ok(code)
}
