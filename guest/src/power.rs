//! Power: the button that the host presses, and the end of the guest.
//!
//! A thread of its own waits for the button, so that the main thread can wait for children. Pressed, everything is
//! asked to end, given two seconds, then killed; the main thread sees the command end and powers off. Where no command
//! ends the guest, the button's thread does.
use crate::{console, sys};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, Signal, WaitOptions, kill_process_group, wait},
    system::{RebootCommand, reboot},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

/// What a command gets to clean up in.
const GRACE: Duration = Duration::from_secs(2);

/// What killed processes get to be gone in.
const GONE: Duration = Duration::from_secs(1);

/// Something that tells of a press, by becoming readable.
enum Button {
    /// An input device; only `KEY_POWER` counts.
    Input(File),
    /// A GPIO line whose rising edge is the press.
    Line(File),
}

/// How a press asks processes to end, in this order.
pub(crate) const TO_COMMANDS: &[Signal] = &[Signal::TERM, Signal::CONT];

/// A shell at a terminal ignores `SIGTERM`. A command that handles it must not be hung up on meanwhile.
pub(crate) const TO_SHELLS: &[Signal] = &[Signal::TERM, Signal::HUP, Signal::CONT];

/// Waits for the power button on a thread of its own, if the machine has one. Pressed, everything gets `signals`; then
/// comes `after`.
pub(crate) fn watch_button(signals: &'static [Signal], after: impl FnOnce() + Send + 'static) {
    let buttons = find_buttons();
    if buttons.is_empty() {
        return;
    }
    let started = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        if wait_for_press(buttons) {
            end_everything(signals);
            after();
        }
    });
    if let Err(error) = started {
        console::say(&format!("the power button will do nothing: {error}"));
    }
}

fn find_buttons() -> Vec<Button> {
    let entries = fs::read_dir("/dev/input").into_iter().flatten().flatten();
    let events = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("event"));
    let inputs = events
        .filter_map(|entry| File::open(entry.path()).ok())
        .map(Button::Input);
    // The GPIO controller's line 3 is the button on boards without ACPI.
    let line = File::open("/dev/gpiochip0").and_then(|chip| sys::watch_gpio_line(&chip, 3));
    inputs
        .chain(line.ok().map(|line: OwnedFd| Button::Line(File::from(line))))
        .collect()
}

/// True at a press, false if nothing is left to wait for.
fn wait_for_press(mut buttons: Vec<Button>) -> bool {
    while !buttons.is_empty() {
        let mut waiting: Vec<PollFd<'_>> = buttons
            .iter()
            .map(|button| PollFd::new(button.file(), PollFlags::IN))
            .collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return false,
        }
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut still = Vec::new();
        for (mut button, ready) in buttons.into_iter().zip(ready) {
            match if ready { button.pressed() } else { Ok(false) } {
                Ok(true) => return true,
                Ok(false) => still.push(button),
                // A device that went away presses no more.
                Err(_) => {}
            }
        }
        buttons = still;
    }
    false
}

impl Button {
    fn file(&self) -> &File {
        match self {
            Self::Input(file) | Self::Line(file) => file,
        }
    }

    /// Reads what is there; blocks if nothing is.
    fn pressed(&mut self) -> io::Result<bool> {
        let mut events = [0; 24 * 64];
        match self {
            Self::Input(file) => {
                let length = file.read(&mut events)?;
                Ok(is_power_press(events.get(..length).unwrap_or_default()))
            }
            Self::Line(file) => Ok(file.read(&mut events)? > 0),
        }
    }
}

/// Whether `struct input_event`s (two words of time, type, code, value) tell that `KEY_POWER` went down.
fn is_power_press(events: &[u8]) -> bool {
    const EV_KEY: u16 = 1;
    const KEY_POWER: u16 = 116;
    let [kind, code] = [EV_KEY, KEY_POWER].map(u16::to_ne_bytes);
    let wanted = [kind, code, [1, 0], [0, 0]].concat();
    events.chunks_exact(24).any(|event| event.ends_with(&wanted))
}

/// Asks every process but this one to end, then makes it.
fn end_everything(signals: &[Signal]) {
    console::say("the power button was pressed");
    // For the kernel the group of PID 1 means everybody else.
    let everybody = Pid::INIT;
    for &signal in signals {
        let _ = kill_process_group(everybody, signal);
    }
    thread::sleep(GRACE);
    let _ = kill_process_group(everybody, Signal::KILL);
}

/// Kills whatever still runs, and gives it a moment to be gone. Linux resets its devices when it goes off: a program that is
/// in the middle of using one may then keep a CPU in its driver for ever, and the machine with it.
fn kill_everybody() {
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
    let until = Instant::now() + GONE;
    while let Ok(gone) = wait(WaitOptions::NOHANG) {
        if gone.is_none() {
            if Instant::now() > until {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the guest, when all that it said has been heard.
pub(crate) fn off() {
    kill_everybody();
    rustix::fs::sync();
    console::drain(io::stdout());
    if let Err(errno) = reboot(RebootCommand::PowerOff) {
        console::say(&format!("cannot power off: {errno}"));
    }
}

/// Starts the machine anew; comes back if that fails.
pub(crate) fn restart() {
    kill_everybody();
    rustix::fs::sync();
    console::drain(io::stdout());
    if let Err(errno) = reboot(RebootCommand::Restart) {
        console::say(&format!("cannot restart: {errno}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![7; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_power_key_going_down_is_a_press() {
        let (press, release) = (event(1, 116, 1), event(1, 116, 0));
        let (other, sync) = (event(1, 30, 1), event(0, 0, 0));
        assert!(is_power_press(&[other.clone(), sync.clone(), press.clone()].concat()));
        assert!(!is_power_press(&[release, other, sync].concat()));
        assert!(!is_power_press(&press[..23]) && !is_power_press(&[]));
    }
}
