//! MSI-X (PCI Local Bus 3.0, section 6.8.2): a table of messages in a BAR, masks, and pending bits.
//!
//! Owns the table and for each vector an eventfd that the device raises. A vector that may deliver is connected to where
//! its message leads; one that may not is disconnected, so that its eventfd itself remembers the interrupt: that is the
//! pending bit. Accesses run on vCPUs, under a lock of the function. Never delivers anything itself.
use crate::irq::IrqLine;
use std::io;

/// The capability's identifier.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of an entry of the table.
pub const ENTRY: u64 = 16;
/// Most vectors that a function can have.
pub const MAX_VECTORS: u16 = 2048;
/// Where in the capability the guest's switches are.
pub const CONTROL: u8 = 2;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// In the last double word of an entry.
const VECTOR_MASK: u8 = 1;
const VECTOR_CONTROL: usize = 12;

/// What a vector writes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// Guest-physical.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// Why a message leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum MsiError {
    /// No interrupt waits for such a message.
    #[error("no interrupt is behind {0:#x?}; the guest's driver should take one that its interrupt controller gave it")]
    Nowhere(Message),
    /// All interrupts are in use.
    #[error("all {0} interrupts for messages are in use; use fewer devices or queues")]
    Full(u32),
    /// The host refused.
    #[error("the host refused an interrupt for a message")]
    Refused(#[source] io::Error),
}

/// Gives messages their way to the guest's interrupt controller.
pub trait MsiBackend: Send + Sync {
    /// A way for what is raised on `line`, which leads nowhere yet and takes nothing until it is connected.
    fn route(&self, line: IrqLine) -> Box<dyn MsiRoute>;
}

/// The way of one vector. Dropping it gives back what it took.
pub trait MsiRoute: Send {
    /// From now on each interrupt of the line sends `message`; one that is pending does so now.
    fn connect(&mut self, message: Message) -> Result<(), MsiError>;
    /// From now on the line remembers what is raised.
    fn disconnect(&mut self);
}

struct Vector {
    entry: [u8; ENTRY as usize],
    line: IrqLine,
    route: Box<dyn MsiRoute>,
    connected: Option<Message>,
}

impl Vector {
    fn message(&self) -> Message {
        let entry = u128::from_le_bytes(self.entry);
        Message {
            address: entry as u64,
            data: (entry >> 64) as u32,
        }
    }

    fn masked(&self) -> bool {
        let [.., control, _, _, _] = self.entry;
        control & VECTOR_MASK != 0
    }

    /// Whether an interrupt waits. Only a disconnected line can hold one.
    fn pending(&self) -> bool {
        if self.connected.is_some() {
            return false;
        }
        let count = self.line.event().read().unwrap_or(0);
        if count != 0 {
            // What was just read fits again.
            let _ = self.line.event().write(count);
        }
        count != 0
    }
}

/// See the module.
pub struct Msix {
    vectors: Vec<Vector>,
    enabled: bool,
    masked: bool,
    /// Whether a message that leads nowhere was told since MSI-X was enabled.
    told: bool,
}

impl Msix {
    /// A table of `count` vectors, at most [`MAX_VECTORS`], all masked.
    pub fn new(count: u16, backend: &dyn MsiBackend) -> io::Result<Self> {
        let vectors = (0..count.min(MAX_VECTORS)).map(|_| {
            let line = IrqLine::new()?;
            let mut entry = [0; ENTRY as usize];
            if let Some(control) = entry.get_mut(VECTOR_CONTROL) {
                *control = VECTOR_MASK;
            }
            Ok(Vector {
                entry,
                route: backend.route(line.clone()),
                line,
                connected: None,
            })
        });
        Ok(Self {
            vectors: vectors.collect::<io::Result<_>>()?,
            enabled: false,
            masked: false,
            told: false,
        })
    }

    /// The capability behind its first two bytes, for a table and pending bits at these offsets of a BAR; and which of its
    /// bits the guest may write.
    pub fn capability(count: u16, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let [c0, c1] = count.saturating_sub(1).to_le_bytes();
        let [t0, t1, t2, t3] = (table | u32::from(bar)).to_le_bytes();
        let [p0, p1, p2, p3] = (pending | u32::from(bar)).to_le_bytes();
        let writable = ENABLE | FUNCTION_MASK;
        ([c0, c1, t0, t1, t2, t3, p0, p1, p2, p3], writable.to_le_bytes())
    }

    /// The vectors that there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(MAX_VECTORS)
    }

    /// What the device raises for a vector; `None` for one that does not exist.
    pub fn line(&self, vector: u16) -> Option<IrqLine> {
        Some(self.vectors.get(usize::from(vector))?.line.clone())
    }

    /// Whether the guest has turned MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Takes the control word of the capability.
    pub fn set_control(&mut self, control: u16) {
        let (enabled, masked) = (control & ENABLE != 0, control & FUNCTION_MASK != 0);
        if (enabled, masked) == (self.enabled, self.masked) {
            return;
        }
        (self.enabled, self.masked) = (enabled, masked);
        if !enabled {
            self.told = false;
        }
        for index in 0..self.vectors.len() {
            self.settle(index);
            if let Some(vector) = self.vectors.get(index).filter(|_| !enabled) {
                // What was pending is over with MSI-X; nothing there is no news.
                let _ = vector.line.event().read();
            }
        }
    }

    /// Serves a read of the table. Bytes that are no entry's read as ones.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entry = usize::try_from(at / ENTRY)
                .ok()
                .and_then(|index| self.vectors.get(index));
            if let Some(value) = entry.and_then(|vector| vector.entry.get((at % ENTRY) as usize)) {
                *byte = *value;
            }
        }
    }

    /// Serves a write to the table, of any width.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let mut touched = None;
        for (at, value) in (offset..).zip(data) {
            let Ok(index) = usize::try_from(at / ENTRY) else { return };
            if touched.is_some_and(|touched| touched != index) {
                self.settle_touched(touched);
            }
            touched = Some(index);
            let byte = (at % ENTRY) as usize;
            // Of vector control only the mask bit exists.
            let value = match byte {
                VECTOR_CONTROL => value & VECTOR_MASK,
                _ if byte > VECTOR_CONTROL => 0,
                _ => *value,
            };
            if let Some(byte) = self
                .vectors
                .get_mut(index)
                .and_then(|vector| vector.entry.get_mut(byte))
            {
                *byte = value;
            }
        }
        self.settle_touched(touched);
    }

    /// Serves a read of the pending bits; bits behind the last vector's are 0. Writes to them do nothing.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = usize::try_from(at.saturating_mul(8)).unwrap_or(usize::MAX);
            let vectors = self.vectors.iter().skip(first).take(8);
            *byte = (0..)
                .zip(vectors)
                .fold(0, |byte, (bit, vector)| byte | u8::from(vector.pending()) << bit);
        }
    }

    fn settle_touched(&mut self, touched: Option<usize>) {
        if let Some(index) = touched {
            self.settle(index);
        }
    }

    /// Connects or disconnects a vector as the guest's switches say.
    fn settle(&mut self, index: usize) {
        let open = self.enabled && !self.masked;
        let Some(vector) = self.vectors.get_mut(index) else {
            return;
        };
        let wanted = (open && !vector.masked()).then(|| vector.message());
        if wanted == vector.connected {
            return;
        }
        vector.connected = wanted;
        let Some(message) = wanted else {
            vector.route.disconnect();
            return;
        };
        if let Err(error) = vector.route.connect(message) {
            vector.route.disconnect();
            vector.connected = None;
            if !self.told {
                self.told = true;
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                log::warn!(
                    "vector {index} of a PCI function is lost: {error}{}",
                    cause.unwrap_or_default()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
