//! The line with which a program on the host asks for a connection to the guest. Pure.
//!
//! ```text
//! CONNECT <port>\n               refused at once if nothing listens on the port
//! CONNECT <port> WAIT <ms>\n     waits that long for somebody to listen
//! ```
//!
//! It may come in pieces of any size. What follows the line belongs to the connection and is not consumed. The verbs are
//! read in any case.
use std::time::Duration;

/// Bytes that a line has at most, its end included.
pub const MAX_LINE: usize = 64;
/// The longest wait that can be asked for.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a program on the host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The port in the guest.
    pub port: u32,
    /// How long it may take until somebody listens there.
    pub wait: Option<Duration>,
}

/// How far a line has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes are part of the line, and more must follow.
    More,
    /// The line is complete with the first `used` bytes.
    Complete {
        /// What it asks for.
        call: Call,
        /// Bytes that belong to the line.
        used: usize,
    },
    /// Not a line that can be answered; what to tell the program.
    Malformed(&'static str),
}

/// A line on its way in.
#[derive(Debug)]
pub struct ConnectLine {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl ConnectLine {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self {
            bytes: [0; MAX_LINE],
            len: 0,
        }
    }

    /// Bytes that the line may still have.
    pub fn room(&self) -> usize {
        MAX_LINE - self.len
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
        let Some(place) = self.bytes.get_mut(self.len..self.len + piece.len()) else {
            return Progress::Malformed(TOO_LONG);
        };
        place.copy_from_slice(piece);
        self.len += piece.len();
        match end {
            None if self.room() == 0 => Progress::Malformed(TOO_LONG),
            None => Progress::More,
            Some(end) => match self.parse() {
                Ok(call) => Progress::Complete { call, used: end + 1 },
                Err(why) => Progress::Malformed(why),
            },
        }
    }

    fn parse(&self) -> Result<Call, &'static str> {
        let line = self.bytes.get(..self.len).unwrap_or_default();
        let mut words = std::str::from_utf8(line)
            .map_err(|_| EXPECTED)?
            .split_ascii_whitespace();
        let is = |word: Option<&str>, verb: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(verb));
        if !is(words.next(), "CONNECT") {
            return Err(EXPECTED);
        }
        let port = number(words.next())
            .and_then(|port| u32::try_from(port).ok())
            .filter(|port| *port != u32::MAX)
            .ok_or("ERROR a port is 0 to 4294967294\n")?;
        let wait = match words.next() {
            None => None,
            wait if is(wait, "WAIT") => {
                let wait = number(words.next()).map(Duration::from_millis);
                Some(
                    wait.filter(|wait| *wait <= MAX_WAIT)
                        .ok_or("ERROR WAIT takes milliseconds, at most 86400000\n")?,
                )
            }
            Some(_) => return Err(EXPECTED),
        };
        words.next().map_or(Ok(Call { port, wait }), |_| Err(EXPECTED))
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(word: Option<&str>) -> Option<u64> {
    word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

const EXPECTED: &str = "ERROR expected CONNECT <port> or CONNECT <port> WAIT <milliseconds>\n";
const TOO_LONG: &str = "ERROR the CONNECT line is longer than 64 bytes\n";

#[cfg(test)]
mod tests;
