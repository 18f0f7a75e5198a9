//! What the host orders, on the kernel command line, and what the guest reports, on the serial port.
//!
//! Pure text and numbers. Compiled into both, so it knows no more than `core`.
use core::fmt;

/// Entries in each queue of the guest: so many requests may be under way at most.
pub const MOST_DEPTH: u64 = 64;
/// The largest request in bytes.
pub const MOST_BYTES: u64 = 64 << 10;
/// The address that the guest has on a network, one of those for benchmarks (RFC 2544).
pub const NET_GUEST: [u8; 4] = [198, 18, 0, 2];
/// The address that it asks for.
pub const NET_HOST: [u8; 4] = [198, 18, 0, 1];

/// What the guest is to do with its device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// Guest-physical address of the device's registers, those of virtio-mmio.
    pub window: u64,
    /// Requests under way at any time.
    pub depth: u64,
    /// Requests in all.
    pub requests: u64,
    /// Bytes of a request.
    pub bytes: u64,
    /// Whether a disk is written to, rather than read.
    pub write: bool,
    /// Whether kicks are asked for by index (Virtio 1.2 §2.7.10), if the device can do that.
    pub event_idx: bool,
}

impl Order {
    /// The order on a command line; the words that it does not have stand for 0.
    pub fn parse(cmdline: &str) -> Self {
        Self {
            window: number(cmdline, "window"),
            depth: number(cmdline, "depth"),
            requests: number(cmdline, "requests"),
            bytes: number(cmdline, "bytes"),
            write: number(cmdline, "write") != 0,
            event_idx: number(cmdline, "event-idx") != 0,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (write, event_idx) = (u8::from(self.write), u8::from(self.event_idx));
        write!(f, "window={} depth={} ", self.window, self.depth)?;
        write!(f, "requests={} bytes={} ", self.requests, self.bytes)?;
        write!(f, "write={write} event-idx={event_idx}")
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that were answered.
    pub requests: u64,
    /// Steps of the time-stamp counter from the first request to the last answer.
    pub ticks: u64,
    /// Kicks, each a write to a register.
    pub kicks: u64,
}

impl Report {
    /// Reads what the guest wrote.
    ///
    /// # Errors
    /// All that it wrote, if that is no report: the guest's own words for what went wrong.
    pub fn parse(text: &str) -> Result<Self, &str> {
        if !text.starts_with("requests=") {
            return Err(text);
        }
        Ok(Self {
            requests: number(text, "requests"),
            ticks: number(text, "ticks"),
            kicks: number(text, "kicks"),
        })
    }
}

/// Always as long as any other, so that it takes as many exits.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, ticks, kicks } = self;
        write!(f, "requests={requests:020} ticks={ticks:020} kicks={kicks:020}")
    }
}

fn number(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Order, Report};

    #[test]
    fn an_order_and_a_report_arrive_as_they_were_sent() {
        let order = Order {
            window: 0xfe10_0000,
            depth: 32,
            requests: 1_000_000,
            bytes: 4096,
            write: true,
            event_idx: true,
        };
        assert_eq!(Order::parse(&format!("quiet {order} -- x=1")), order);
        let report = Report {
            requests: 1,
            ticks: u64::MAX,
            kicks: 0,
        };
        assert_eq!(Report::parse(&report.to_string()), Ok(report));
    }

    #[test]
    fn what_is_no_report_is_the_guests_complaint() {
        assert_eq!(Report::parse("no such device"), Err("no such device"));
        assert_eq!(Report::parse(""), Err(""));
    }

    #[test]
    fn reports_are_equally_long() {
        let long = Report {
            requests: u64::MAX,
            ticks: u64::MAX,
            kicks: u64::MAX,
        };
        assert_eq!(long.to_string().len(), Report::default().to_string().len());
    }
}
