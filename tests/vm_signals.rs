//! A VMM that is told to end, or killed, at any moment of a boot leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod terminal;
    pub mod tiny;
}
use rustix::process::Signal;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use support::{run::Run, terminal::Terminal, tiny::Folder};

const MOMENTS: u32 = 20;

/// A boot whose temporary files, working folder and terminal are its own.
fn boot(folder: &Path, terminal: &Terminal) -> Run {
    Run::guest(&[], "echo booted; sleep 1000")
        .folder(folder)
        .stdin(terminal.client())
}

/// Processes that run the program under test.
fn processes() -> usize {
    let program = fs::canonicalize(env!("CARGO_BIN_EXE_coracle")).unwrap();
    let exe = |entry: fs::DirEntry| fs::read_link(entry.path().join("exe")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(exe);
    all.filter(|exe| *exe == program).count()
}

/// Names in the folders where a program might leave something.
fn files(own: &Path) -> Vec<PathBuf> {
    let folders = [own, Path::new("/dev/shm"), Path::new("/tmp"), Path::new("/run")];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok());
    let mut names: Vec<_> = entries.flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    names
}

#[test]
fn ended_at_any_moment_of_a_boot_it_leaves_nothing_behind() {
    let folder = Folder::new("moments");
    let terminal = Terminal::new();
    let modes = terminal.modes();
    let (processes_before, files_before) = (processes(), files(&folder));

    let start = Instant::now();
    let running = boot(&folder, &terminal).start();
    running.wait_for("booted\n");
    // A cold first boot in an emulated host takes long; later ones are over well before that.
    let whole = start.elapsed().min(Duration::from_secs(15));
    running.signal(Signal::TERM);
    running.end().code(128 + 15);

    let mut random: u32 = 2026;
    for moment in 0..MOMENTS {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The first eight are spread over the VMM's own start, a small part of the whole.
        let span = if moment < 8 { whole / 16 } else { whole };
        let after = span.mul_f64(f64::from(random) / f64::from(u32::MAX));
        let signal = [Signal::TERM, Signal::INT, Signal::KILL][moment as usize % 3];
        ended(&folder, &terminal, signal, after);
        if signal == Signal::KILL {
            terminal.restore(); // nobody can do that for a process that was killed
        }
        let place = format!("moment {moment}: {signal:?} after {after:?}");
        assert_eq!(terminal.modes(), modes, "{place}");
        assert_eq!(processes(), processes_before, "{place}");
        assert_eq!(files(&folder), files_before, "{place}");
    }
}

/// Boots, signals after a time, and holds the end to the signal.
fn ended(folder: &Path, terminal: &Terminal, signal: Signal, after: Duration) {
    let running = boot(folder, terminal).start();
    thread::sleep(after);
    running.signal(signal);
    let start = Instant::now();
    let ended = running.end();
    let status = ended.status;
    // Before the program's first lines, the system itself ends it: a shell shows the same code for that.
    let by_default = status.signal() == Some(signal.as_raw());
    let by_itself = signal != Signal::KILL && status.code() == Some(128 + signal.as_raw());
    assert!(by_default || by_itself, "{status:?} after {after:?}, {}", ended.errors);
    assert!(start.elapsed() < Duration::from_secs(120), "took {:?}", start.elapsed());
}
