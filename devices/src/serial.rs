//! A 16550A UART behind an 8-byte window.
//!
//! Owns the registers and two bounded queues. Register accesses run on the vCPU that makes them, [`Serial::receive`]
//! and [`Serial::output_drained`] on whichever thread moves the bytes. One lock, held for the length of an access; it
//! is held while calling [`SerialOutput`], which therefore must not block and must not call back. Never blocks, never
//! buffers without bound, never reads or writes a file.
//!
//! Each register access costs an exit, so the choices below save accesses where the datasheet leaves one:
//!
//! - The line is infinitely fast: while the output has room, THRE and TEMT always read 1. A driver's wait before each
//!   byte (or each 16, once it trusts the FIFO) ends at its first look.
//! - The FIFO bits in IIR make it a 16550A, so Linux writes 16 bytes for each look at LSR. The transmitter holds
//!   [`FIFO_SIZE`] bytes, so a device tree may promise that many to reach longer bursts. In loopback mode the FIFO is
//!   16 deep, because Linux counts it there and takes one of 64 for another chip.
//! - THRE is pending again as soon as a byte is written, and the interrupt is raised on the edge only: a driver that
//!   reads IIR until it says "none", as Linux does, sends its whole buffer in one interrupt.
//! - Fewer bytes than the trigger level are reported as a character timeout at once: there is no timer to wait for.
//! - Modem lines stand still (CTS, DSR and DCD on), so they never interrupt.
//!
//! And these keep bytes from getting lost:
//!
//! - Input stays invisible until the guest listens: it enabled the receive interrupt, or it polls (three looks at LSR
//!   in a row with the transmitter idle). Drivers throw away what they find while they probe and open the port.
//! - For the same reason clearing a FIFO drops loopback bytes only. Linux clears the receive FIFO at each change of
//!   terminal settings; a real line would deliver what the reader has typed ahead after that.
//! - When the output has no room THRE and TEMT read 0 and no THRE interrupt comes until there is room again. Up to
//!   [`FIFO_SIZE`] bytes written before the guest looked are held; what a guest writes beyond that is dropped and
//!   counted.
use crate::{
    bus::{BusDevice, Effect},
    irq::IrqLine,
    lock::lock,
};
use std::sync::{Arc, Mutex, MutexGuard};
use vmm_sys_util::eventfd::EventFd;

mod uart;
use uart::Uart;

/// Bytes of the window.
pub const SIZE: u64 = 8;
/// Bytes the guest may write after it has seen THRE without losing one; what a device tree may give as `fifo-size`.
pub const FIFO_SIZE: usize = 64;
/// Bytes of input that wait in the device for the guest; see [`Serial::receive`].
pub const INPUT_SIZE: usize = 256;

/// Where the guest's output goes. Called with the UART's lock held: an implementation may take a lock of its own, and
/// must have released it when it calls [`Serial::output_drained`].
pub trait SerialOutput: Send + Sync {
    /// Takes all of `bytes` or says how many it took, from the front; never blocks.
    fn put(&self, bytes: &[u8]) -> usize;
    /// Whether `put` would take at least one byte now.
    fn has_room(&self) -> bool;
}

/// See the module.
pub struct Serial {
    irq: IrqLine,
    output: Arc<dyn SerialOutput>,
    input_wanted: EventFd,
    uart: Mutex<Uart>,
}

impl Serial {
    /// A UART as after reset. `input_wanted` is written when [`Serial::receive`] has refused bytes and takes some again.
    pub fn new(irq: IrqLine, output: Arc<dyn SerialOutput>, input_wanted: EventFd) -> Self {
        let uart = Mutex::new(Uart::new(output.has_room()));
        Self {
            irq,
            output,
            input_wanted,
            uart,
        }
    }

    /// Takes input for the guest and says how many of `bytes` it took, from the front. When that is not all, wait for
    /// the event given to [`Serial::new`] and offer the rest again.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let taken = uart.receive(bytes);
        self.settle(&mut uart);
        taken
    }

    /// Whether the guest has opened the port for input by interrupts. If not, the event given to [`Serial::new`] is written
    /// when it does.
    pub fn listens(&self) -> bool {
        self.lock().listens()
    }

    /// Sends a break, in order with the bytes before it; `false` when the queue is full, as for [`Serial::receive`].
    pub fn send_break(&self) -> bool {
        let mut uart = self.lock();
        let taken = uart.receive_break();
        self.settle(&mut uart);
        taken
    }

    /// Tells the UART that its output has room again. Call it after each drain, without holding the output's lock; it
    /// costs nothing when the guest does not wait.
    pub fn output_drained(&self) {
        let mut uart = self.lock();
        uart.flush(&*self.output);
        self.settle(&mut uart);
    }

    /// Bytes lost because the guest wrote them while the transmitter was full.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped()
    }

    /// The registers hold no invariant that a panic could break, so a poisoned lock is no obstacle.
    fn lock(&self) -> MutexGuard<'_, Uart> {
        lock(&self.uart)
    }

    /// Brings the world outside up to date with the registers; the end of each access.
    fn settle(&self, uart: &mut Uart) {
        if uart.take_interrupt_edge() {
            self.irq.raise();
        }
        if uart.take_input_wanted()
            && let Err(error) = self.input_wanted.write(1)
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            log::error!("cannot ask for more serial input: {error}");
        }
    }
}

impl BusDevice for Serial {
    /// Fills the first byte with the register at `offset`; the others read 0.
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(value) = data.first_mut() {
            let mut uart = self.lock();
            *value = uart.read(offset, &*self.output);
            self.settle(&mut uart);
        }
    }

    /// Takes the first byte; at offset 0 all bytes, one after the other, as a string instruction gives them.
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let count = if offset == 0 { data.len() } else { 1 };
        if let Some(bytes) = data.get(..count) {
            let mut uart = self.lock();
            uart.write(offset, bytes, &*self.output);
            self.settle(&mut uart);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
