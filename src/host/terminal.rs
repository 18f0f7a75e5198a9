//! The user's terminal while a command of the host runs on one of its own. Changes the settings of standard input and
//! puts them back.
use super::Window;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal of this process in raw mode; dropping it restores what was before.
#[derive(Debug)]
pub struct RawTerminal(Termios);

impl RawTerminal {
    /// Puts the terminal on standard input into raw mode; `None` if there is none.
    pub fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }

    /// Size of the terminal on standard input; `None` if there is none.
    pub fn size() -> Option<Window> {
        let stdin = rustix::stdio::stdin();
        let size = tcgetwinsize(stdin).ok().filter(|_| isatty(stdin))?;
        Some(Window {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}
