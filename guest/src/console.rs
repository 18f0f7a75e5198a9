//! The console: what PID 1 says on it, and how its terminal is set.
use coracle_protocol::report::Timings;
use rustix::{
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{OptionalActions, OutputModes, isatty, tcdrain, tcgetattr, tcsetattr},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::AsFd,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Takes the console for standard input, output and errors, if there is one before modules are loaded. The kernel has not
/// given it to PID 1, because it would complain about a console that a module brings.
pub(crate) fn adopt_early() {
    let _ = take("/dev/console");
}

/// As above, with a console that the modules may have brought. If there is none at all, takes the serial port.
pub(crate) fn adopt() {
    let has_console = isatty(io::stdin());
    if has_console && !Path::new("/dev/hvc0").exists() {
        return;
    }
    if take("/dev/console").is_err() && !has_console {
        // Without any console the guest is silent, but does its work.
        let _ = take("/dev/ttyS0");
    }
}

fn take(path: &str) -> io::Result<()> {
    let options = &mut OpenOptions::new();
    let console = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}

/// One line on the console. There is nobody to tell if that fails.
pub(crate) fn say(text: &str) {
    line(&format!("coracle-guest: {text}"));
}

/// The one line of a start that goes well.
pub(crate) fn ready(timings: &Timings) {
    let ms = |micros: u64| format!("{}.{:03} ms", micros / 1000, micros % 1000);
    say(&format!(
        "ready after {} (PID 1 at {}, modules at {})",
        ms(timings.ready),
        ms(timings.init),
        ms(timings.modules)
    ));
}

fn line(text: &str) {
    // In one write, so that nothing of the kernel's comes between.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Lets bytes of a command pass unchanged: no carriage return is added at the end of a line.
pub(crate) fn pass_output_unchanged() {
    // A console that is no terminal changes nothing anyway.
    if let Ok(mut settings) = tcgetattr(io::stdout()) {
        settings.output_modes.remove(OutputModes::OPOST);
        let _ = tcsetattr(io::stdout(), OptionalActions::Now, &settings);
    }
}

/// Waits until what was written has left the machine.
pub(crate) fn drain(terminal: impl AsFd) {
    let _ = tcdrain(terminal);
}

/// The terminal behind `/dev/console`, which itself cannot control a session: the last of the active consoles.
pub(crate) fn terminal() -> Option<File> {
    let active = fs::read_to_string("/sys/class/tty/console/active").ok()?;
    let name = active.split_whitespace().next_back()?;
    let options = &mut OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    options.open(format!("/dev/{name}")).ok()
}
