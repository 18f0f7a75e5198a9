//! Raw mode of the operator's terminal, undone on every way out that runs destructors, and the escape keys.
use rustix::termios::{self, OptionalActions, Termios};
use std::{fs::File, io};

/// Holds a terminal in raw mode; dropping it restores what was.
pub(crate) struct RawMode {
    terminal: File,
    before: Termios,
}

impl RawMode {
    /// Puts `terminal` into raw mode, or leaves it alone if it is none.
    pub(crate) fn enter(terminal: &File) -> io::Result<Option<Self>> {
        if !termios::isatty(terminal) {
            return Ok(None);
        }
        let before = termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output keeps its NL to CR-NL translation: log lines of this process share the screen.
        raw.output_modes = before.output_modes;
        let guard = Self {
            terminal: terminal.try_clone()?,
            before,
        };
        termios::tcsetattr(&guard.terminal, OptionalActions::Now, &raw)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before) {
            log::warn!("cannot restore the terminal, `stty sane` does: {error}");
        }
    }
}

/// What the operator asks for with the escape key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `Ctrl-a x`: stop the VM now.
    Stop,
    /// `Ctrl-a p`: press its power button.
    PowerButton,
}

/// Takes escape sequences out of what is typed. `Ctrl-a a` (or `Ctrl-a Ctrl-a`) sends `Ctrl-a` itself.
#[derive(Debug, Default)]
pub(crate) struct EscapeKeys {
    armed: bool,
}

impl EscapeKeys {
    const KEY: u8 = 0x01;

    /// Splits typed bytes into those for the guest and requests.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Escape>) {
        let (mut bytes, mut escapes) = (Vec::with_capacity(typed.len()), Vec::new());
        for &byte in typed {
            match (std::mem::take(&mut self.armed), byte) {
                (false, Self::KEY) => self.armed = true,
                (true, b'a' | Self::KEY) => bytes.push(Self::KEY),
                (true, b'x') => escapes.push(Escape::Stop),
                (true, b'p') => escapes.push(Escape::PowerButton),
                (true, other) => bytes.extend([Self::KEY, other]),
                (false, other) => bytes.push(other),
            }
        }
        (bytes, escapes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_leave_the_stream_and_others_pass() {
        let mut keys = EscapeKeys::default();
        assert_eq!(keys.filter(b"ls\x01"), (b"ls".to_vec(), vec![]));
        assert_eq!(keys.filter(b"xok"), (b"ok".to_vec(), vec![Escape::Stop]));
        assert_eq!(
            keys.filter(b"\x01p\x01a\x01\x01\x01z"),
            (b"\x01\x01\x01z".to_vec(), vec![Escape::PowerButton])
        );
    }
}
