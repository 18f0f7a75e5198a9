//! Steps: timed by the guest's clock, and each agreed on with the probe beside the VMM.
use crate::{Outcome, now_ns};
use coracle_measure::io::{BEGIN, EMPTY, END, Measured, RESULT};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io::Read;

/// The guest's console, quiet.
pub(crate) struct Steps;

impl Steps {
    /// Begins with the step without work.
    pub(crate) fn begin() -> Outcome<Self> {
        let input = rustix::stdio::stdin();
        let mut terminal = tcgetattr(input)?;
        // An echo would be counted as an exit of the step.
        terminal.make_raw();
        tcsetattr(input, OptionalActions::Now, &terminal)?;
        // `make_raw` keeps newlines from becoming two bytes; the other side needs no more than one.
        let steps = Self;
        steps.once(EMPTY, (0, 0), &mut || Ok(()))?;
        Ok(steps)
    }

    /// Does something twice and tells the time of both: the second one finds everything warm. `amount` is the number of
    /// operations and the bytes that one moves.
    pub(crate) fn twice(&self, step: &str, amount: (u64, u64), mut work: impl FnMut() -> Outcome<()>) -> Outcome<()> {
        self.once(step, amount, &mut work)?;
        self.once(step, amount, &mut work)
    }

    fn once(&self, step: &str, amount: (u64, u64), work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<()> {
        self.agree(BEGIN)?;
        let start = now_ns();
        work().map_err(|error| format!("{step}: {error}"))?;
        let nanoseconds = now_ns() - start;
        self.agree(END)?;
        let measured = Measured {
            step: step.to_string(),
            operations: amount.0,
            size: amount.1,
            nanoseconds,
        };
        println!("{RESULT}{}", measured.to_line());
        Ok(())
    }

    /// Says a line and waits for one.
    #[allow(clippy::unused_self, reason = "only who has prepared the console may talk on it")]
    fn agree(&self, line: &str) -> Outcome<()> {
        println!("{line}");
        let mut byte = [0];
        std::io::stdin().lock().read_exact(&mut byte)?;
        Ok(())
    }
}
