//! A PL061 GPIO controller (Arm DDI 0190): eight lines, by which the host presses the guest's buttons.
//!
//! Owns the lines and the interrupt logic behind one lock. [`Gpio::press`] and [`Gpio::release`] may be called from any
//! thread, accesses run on the vCPU that makes them; never waits for the guest.
//!
//! A press and its release may come faster than the guest can look: a button driver waits some milliseconds for the
//! contact to settle before it reads the line, and would find it released. So when a line's edges are watched, a
//! release takes effect only after the guest has acknowledged the press and, if it watches both edges, has read the
//! line. The guest then always sees two edges with the right level after each. Lines nobody watches change at once.
use crate::{
    bus::{BusDevice, Effect},
    irq::IrqLine,
    lock::lock,
    primecell,
};
use std::sync::{Mutex, MutexGuard};

/// Bytes of the window.
pub const SIZE: u64 = primecell::SIZE;
/// What the identification registers say, as `arm,primecell-periphid` has it.
pub const PERIPHERAL_ID: u32 = 0x0014_1061;

mod reg {
    /// The data register fills 1 KiB: address bits 9:2 choose the lines that an access touches.
    pub(super) const DATA_END: u64 = 0x400;
    pub(super) const DIRECTION: u64 = 0x400;
    pub(super) const LEVEL_SENSE: u64 = 0x404;
    pub(super) const BOTH_EDGES: u64 = 0x408;
    pub(super) const EVENT: u64 = 0x40c;
    pub(super) const ENABLE: u64 = 0x410;
    pub(super) const RAW_STATUS: u64 = 0x414;
    pub(super) const MASKED_STATUS: u64 = 0x418;
    pub(super) const CLEAR: u64 = 0x41c;
    pub(super) const ALTERNATE: u64 = 0x420;
}

/// See the module.
#[derive(Debug)]
pub struct Gpio {
    irq: IrqLine,
    lines: Mutex<Lines>,
}

/// One bit for each line.
#[derive(Debug, Default)]
struct Lines {
    /// What the host puts on the lines.
    pressed: u8,
    /// What the guest puts on the lines that it drives.
    output: u8,
    direction: u8,
    level_sense: u8,
    both_edges: u8,
    event: u8,
    enable: u8,
    alternate: u8,
    /// Edges that were seen and not cleared.
    edges: u8,
    /// The masked status that the interrupt line has told of.
    told: u8,
    /// Releases that wait for the guest.
    releasing: u8,
    /// Presses whose edge the guest has not cleared.
    unacknowledged: u8,
    /// Presses that the guest, watching both edges, has not read.
    unread: u8,
}

impl Gpio {
    /// Eight low input lines.
    pub fn new(irq: IrqLine) -> Self {
        Self {
            irq,
            lines: Mutex::default(),
        }
    }

    /// Sets a line (0 to 7, others do not exist) high. A release that still waits takes effect before.
    pub fn press(&self, line: u8) {
        let bit = bit(line);
        let mut lines = self.lock();
        lines.release(bit);
        lines.press(bit);
        self.settle(&mut lines);
    }

    /// Sets a line low, as soon as the guest cannot miss the press; see the module.
    pub fn release(&self, line: u8) {
        let mut lines = self.lock();
        lines.releasing |= bit(line) & lines.pressed;
        self.settle(&mut lines);
    }

    /// Each line stands for itself, so a poisoned lock is no obstacle.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }

    /// Lets releases happen that need not wait longer, and interrupts for each line that has not done so yet. Each
    /// counts, not only the first: the guest reads the status once for an interrupt and may miss a later line.
    fn settle(&self, lines: &mut Lines) {
        lines.release(lines.releasing & !lines.unacknowledged & !lines.unread);
        let status = lines.masked_status();
        if status & !lines.told != 0 {
            self.irq.raise();
        }
        lines.told = status;
    }
}

impl Lines {
    fn levels(&self) -> u8 {
        (self.pressed & !self.direction) | (self.output & self.direction)
    }

    fn raw_status(&self) -> u8 {
        let active = !(self.levels() ^ self.event);
        (self.edges & !self.level_sense) | (active & self.level_sense)
    }

    fn masked_status(&self) -> u8 {
        self.raw_status() & self.enable
    }

    /// Makes a change that may move lines, and keeps the edges that the guest asked for.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.levels();
        change(self);
        let after = self.levels();
        let wanted = self.both_edges | !(after ^ self.event);
        self.edges |= (before ^ after) & wanted & !self.level_sense;
    }

    fn press(&mut self, bit: u8) {
        let new = bit & !self.pressed & !self.direction;
        self.change(|lines| lines.pressed |= bit);
        self.unacknowledged |= new & self.enable & self.edges;
        self.unread |= self.unacknowledged & new & self.both_edges;
    }

    fn release(&mut self, bits: u8) {
        let bits = bits & self.releasing;
        self.releasing &= !bits;
        self.unacknowledged &= !bits;
        self.unread &= !bits;
        self.change(|lines| lines.pressed &= !bits);
    }

    fn read(&mut self, offset: u64) -> u32 {
        let value = match offset {
            ..reg::DATA_END => {
                let mask = (offset >> 2) as u8;
                self.unread &= !mask;
                self.levels() & mask
            }
            reg::DIRECTION => self.direction,
            reg::LEVEL_SENSE => self.level_sense,
            reg::BOTH_EDGES => self.both_edges,
            reg::EVENT => self.event,
            reg::ENABLE => self.enable,
            reg::RAW_STATUS => self.raw_status(),
            reg::MASKED_STATUS => self.masked_status(),
            reg::ALTERNATE => self.alternate,
            _ => return primecell::identification(offset, PERIPHERAL_ID).unwrap_or(0),
        };
        value.into()
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            ..reg::DATA_END => {
                let mask = (offset >> 2) as u8 & self.direction;
                self.change(|lines| lines.output = (lines.output & !mask) | (value & mask));
            }
            reg::DIRECTION => self.change(|lines| lines.direction = value),
            reg::LEVEL_SENSE => self.level_sense = value,
            reg::BOTH_EDGES => self.both_edges = value,
            reg::EVENT => self.event = value,
            reg::ENABLE => self.enable = value,
            reg::CLEAR => {
                self.edges &= !value;
                self.unacknowledged &= !value;
            }
            reg::ALTERNATE => self.alternate = value,
            _ => {}
        }
    }
}

/// The bit of a line; none for a line that does not exist.
fn bit(line: u8) -> u8 {
    1u8.checked_shl(line.into()).unwrap_or(0)
}

impl BusDevice for Gpio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut lines = self.lock();
        primecell::answer(offset, data, || lines.read(offset));
        self.settle(&mut lines);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let Some(value) = primecell::written(offset, data) {
            let mut lines = self.lock();
            lines.write(offset, value as u8);
            self.settle(&mut lines);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
