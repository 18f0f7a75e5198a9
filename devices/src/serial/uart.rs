//! The registers of the 16550A (National Semiconductor PC16550D data sheet, section 8) and their rules.
//!
//! Owns the state behind [`super::Serial`]'s lock and runs on whichever thread holds it; never touches an interrupt
//! line or an eventfd, it only says when one is due.
use super::{FIFO_SIZE, INPUT_SIZE, SerialOutput};
use std::collections::VecDeque;

mod reg {
    pub(super) const DATA: u64 = 0;
    pub(super) const IER: u64 = 1;
    pub(super) const IIR_FCR: u64 = 2;
    pub(super) const LCR: u64 = 3;
    pub(super) const MCR: u64 = 4;
    pub(super) const LSR: u64 = 5;
    pub(super) const MSR: u64 = 6;
    pub(super) const SCR: u64 = 7;
}

const IER_RECEIVE: u8 = 1 << 0;
const IER_TRANSMIT: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
const IER_MASK: u8 = 0x0f;

const IIR_MODEM: u8 = 0x0;
const IIR_NONE: u8 = 0x1;
const IIR_TRANSMIT: u8 = 0x2;
const IIR_RECEIVE: u8 = 0x4;
const IIR_LINE: u8 = 0x6;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const FCR_TRIGGER_SHIFT: u8 = 6;

const LCR_DLAB: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_MASK: u8 = 0x1f;

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_BREAK: u8 = 1 << 4;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;
const LSR_FIFO_ERROR: u8 = 1 << 7;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RING: u8 = 1 << 6;
const MSR_CARRIER: u8 = 1 << 7;

/// The FIFO as the data sheet has it; seen by the guest in loopback mode only.
const LOOP_SIZE: usize = 16;
/// Looks at LSR in a row that tell a guest that polls for input from one that waits for the transmitter.
const POLLING: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Byte(u8),
    Break,
}

pub(super) struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// The modem status' change bits.
    modem_changes: u8,
    overrun: bool,
    /// Bytes that the host sent.
    input: VecDeque<Symbol>,
    /// Bytes that the guest sent to itself.
    looped: VecDeque<u8>,
    /// Bytes that the output had no room for.
    held: VecDeque<u8>,
    /// Nothing is held and the output has room.
    transmitter_empty: bool,
    /// The transmitter has become empty and the guest has not been told.
    transmit_pending: bool,
    /// Looks at LSR in a row that found the transmitter empty and no input.
    idle_looks: u8,
    interrupt: bool,
    interrupt_edge: bool,
    input_refused: bool,
    /// Somebody waits for the guest to listen.
    listener_wanted: bool,
    dropped: u64,
}

impl Uart {
    pub(super) fn new(has_room: bool) -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            divisor: [1, 0], // 115200 baud
            modem_changes: 0,
            overrun: false,
            input: VecDeque::with_capacity(INPUT_SIZE),
            looped: VecDeque::with_capacity(LOOP_SIZE),
            held: VecDeque::with_capacity(FIFO_SIZE),
            transmitter_empty: has_room,
            transmit_pending: false,
            idle_looks: 0,
            interrupt: false,
            interrupt_edge: false,
            input_refused: false,
            listener_wanted: false,
            dropped: 0,
        }
    }

    pub(super) fn read(&mut self, offset: u64, output: &dyn SerialOutput) -> u8 {
        if !matches!(offset, reg::DATA | reg::LSR) {
            self.idle_looks = 0;
        }
        let value = match offset {
            reg::DATA if self.latches_open() => self.divisor[0],
            reg::IER if self.latches_open() => self.divisor[1],
            reg::DATA => self.take_received(),
            reg::IER => self.ier,
            reg::IIR_FCR => self.identify(),
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => self.line_status(output),
            reg::MSR => modem_lines(self.mcr) | std::mem::take(&mut self.modem_changes),
            reg::SCR => self.scratch,
            _ => 0,
        };
        self.update_interrupt();
        value
    }

    /// Takes one byte, or at offset 0 any number of them.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], output: &dyn SerialOutput) {
        let Some(&value) = bytes.last() else { return };
        self.idle_looks = 0;
        match offset {
            reg::DATA if self.latches_open() => self.divisor[0] = value,
            reg::IER if self.latches_open() => self.divisor[1] = value,
            reg::DATA => self.transmit(bytes, output),
            reg::IER => self.enable_interrupts(value & IER_MASK),
            reg::IIR_FCR => self.control_fifos(value),
            reg::LCR => self.lcr = value,
            reg::MCR => self.control_modem(value & MCR_MASK),
            reg::SCR => self.scratch = value,
            _ => {} // LSR and MSR are for reading
        }
        self.update_interrupt();
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(INPUT_SIZE - self.input.len());
        self.input.extend(bytes.iter().take(taken).map(|&b| Symbol::Byte(b)));
        self.input_refused |= taken < bytes.len();
        self.update_interrupt();
        taken
    }

    pub(super) fn receive_break(&mut self) -> bool {
        let room = self.input.len() < INPUT_SIZE;
        if room {
            self.input.push_back(Symbol::Break);
        }
        self.input_refused |= !room;
        self.update_interrupt();
        room
    }

    /// Hands held bytes to the output and looks whether it has room for more.
    pub(super) fn flush(&mut self, output: &dyn SerialOutput) {
        if self.transmitter_empty {
            return;
        }
        if !self.held.is_empty() {
            let taken = output.put(self.held.make_contiguous());
            self.held.drain(..taken.min(self.held.len()));
        }
        self.transmitter_empty = self.held.is_empty() && output.has_room();
        self.transmit_pending |= self.transmitter_empty;
        self.update_interrupt();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether an interrupt has become due since the last call.
    pub(super) fn take_interrupt_edge(&mut self) -> bool {
        std::mem::take(&mut self.interrupt_edge)
    }

    /// Whether input was refused before and is welcome now.
    pub(super) fn take_input_wanted(&mut self) -> bool {
        let listens = self.listener_wanted && self.is_open();
        self.listener_wanted &= !listens;
        listens || self.input.len() <= INPUT_SIZE / 4 && std::mem::take(&mut self.input_refused)
    }

    /// Whether the guest has opened the port; if not, its opening will be told.
    pub(super) fn listens(&mut self) -> bool {
        self.listener_wanted = !self.is_open();
        !self.listener_wanted
    }

    /// Drivers try the receive interrupt while they probe, but let it pass (OUT2) only once the port is open.
    fn is_open(&self) -> bool {
        !self.looping() && self.ier & IER_RECEIVE != 0 && self.mcr & MCR_OUT2 != 0
    }

    fn latches_open(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn looping(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn fifos_enabled(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    /// Whether input from the host shows; see the module above.
    fn listening(&self) -> bool {
        !self.looping() && (self.ier & IER_RECEIVE != 0 || self.idle_looks >= POLLING)
    }

    /// Bytes that the guest can read now.
    fn received(&self) -> usize {
        self.looped.len() + if self.listening() { self.input.len() } else { 0 }
    }

    fn break_is_next(&self) -> bool {
        self.looped.is_empty() && self.listening() && self.input.front() == Some(&Symbol::Break)
    }

    fn take_received(&mut self) -> u8 {
        if let Some(byte) = self.looped.pop_front() {
            return byte;
        }
        match if self.listening() { self.input.pop_front() } else { None } {
            Some(Symbol::Byte(byte)) => byte,
            Some(Symbol::Break) | None => 0,
        }
    }

    fn line_status(&mut self, output: &dyn SerialOutput) -> u8 {
        self.flush(output);
        let mut status = 0;
        if self.transmitter_empty || self.looping() {
            status |= LSR_THR_EMPTY | LSR_IDLE;
            self.idle_looks = self.idle_looks.saturating_add(1);
        } else {
            self.idle_looks = 0;
        }
        if self.received() > 0 {
            status |= LSR_DATA_READY;
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        if self.listening() && self.fifos_enabled() && self.input.contains(&Symbol::Break) {
            status |= LSR_FIFO_ERROR;
        }
        // Reading clears the error; what stays is the zero byte that a break leaves in the FIFO.
        if self.break_is_next()
            && let Some(front) = self.input.front_mut()
        {
            *front = Symbol::Byte(0);
            status |= LSR_BREAK;
        }
        status
    }

    fn transmit(&mut self, bytes: &[u8], output: &dyn SerialOutput) {
        if self.looping() {
            let depth = if self.fifos_enabled() { LOOP_SIZE } else { 1 };
            let taken = bytes.len().min(depth.saturating_sub(self.looped.len()));
            self.looped.extend(bytes.iter().take(taken));
            self.overrun |= taken < bytes.len();
            self.transmit_pending = true;
            return;
        }
        let put = if self.held.is_empty() {
            output.put(bytes).min(bytes.len())
        } else {
            0
        };
        let rest = bytes.get(put..).unwrap_or_default();
        let hold = rest.len().min(FIFO_SIZE - self.held.len());
        self.held.extend(rest.iter().take(hold));
        self.dropped = self.dropped.saturating_add((rest.len() - hold) as u64);
        self.transmitter_empty = self.held.is_empty() && output.has_room();
        self.transmit_pending = self.transmitter_empty;
    }

    fn enable_interrupts(&mut self, ier: u8) {
        if ier & !self.ier & IER_TRANSMIT != 0 && (self.transmitter_empty || self.looping()) {
            self.transmit_pending = true;
        }
        self.ier = ier;
    }

    fn control_fifos(&mut self, fcr: u8) {
        if (fcr ^ self.fcr) & FCR_ENABLE != 0 || fcr & FCR_CLEAR_RECEIVE != 0 {
            self.looped.clear();
        }
        // The other bits can only be set together with the first.
        self.fcr = if fcr & FCR_ENABLE != 0 { fcr } else { 0 };
    }

    fn control_modem(&mut self, mcr: u8) {
        let (old, new) = (modem_lines(self.mcr), modem_lines(mcr));
        // Each line has its change bit four below; the ring indicator counts when it ends only.
        let started_ringing = new & !old & MSR_RING;
        self.modem_changes |= ((old ^ new) & !started_ringing) >> 4;
        self.mcr = mcr;
    }

    /// What the interrupt identification register says, highest priority first.
    fn cause(&self) -> u8 {
        let received = self.received();
        if self.ier & IER_LINE != 0 && (self.overrun || self.break_is_next()) {
            IIR_LINE
        } else if self.ier & IER_RECEIVE != 0 && received > 0 {
            if self.fifos_enabled() && received < self.trigger_level() {
                IIR_TIMEOUT
            } else {
                IIR_RECEIVE
            }
        } else if self.ier & IER_TRANSMIT != 0 && self.transmit_pending {
            IIR_TRANSMIT
        } else if self.ier & IER_MODEM != 0 && self.modem_changes != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn trigger_level(&self) -> usize {
        match self.fcr >> FCR_TRIGGER_SHIFT {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMIT {
            self.transmit_pending = false;
        }
        cause | if self.fifos_enabled() { IIR_FIFO } else { 0 }
    }

    fn update_interrupt(&mut self) {
        let interrupt = self.cause() != IIR_NONE;
        self.interrupt_edge |= interrupt && !self.interrupt;
        self.interrupt = interrupt;
    }
}

/// The modem status lines: on and still, or in loopback mode what the guest drives.
fn modem_lines(mcr: u8) -> u8 {
    if mcr & MCR_LOOP == 0 {
        return MSR_CTS | MSR_DSR | MSR_CARRIER;
    }
    [
        (MCR_RTS, MSR_CTS),
        (MCR_DTR, MSR_DSR),
        (MCR_OUT1, MSR_RING),
        (MCR_OUT2, MSR_CARRIER),
    ]
    .into_iter()
    .filter(|(driven, _)| mcr & driven != 0)
    .fold(0, |lines, (_, line)| lines | line)
}
