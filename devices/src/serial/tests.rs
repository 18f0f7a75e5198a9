use super::*;
use crate::scribble::{Dice, scribble};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const THR: u64 = 0;
const RBR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

/// An output with room for so many bytes.
#[derive(Default)]
struct Tape(Mutex<(Vec<u8>, usize)>);

impl SerialOutput for Tape {
    fn put(&self, bytes: &[u8]) -> usize {
        let (taken, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        taken.extend_from_slice(&bytes[..count]);
        *room -= count;
        count
    }
    fn has_room(&self) -> bool {
        self.0.lock().unwrap().1 > 0
    }
}

impl Tape {
    fn give_room(&self, room: usize) {
        self.0.lock().unwrap().1 = room;
    }
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }
    fn len(&self) -> usize {
        self.0.lock().unwrap().0.len()
    }
}

struct Rig {
    serial: Serial,
    tape: Arc<Tape>,
    irq: IrqLine,
    wanted: EventFd,
}

fn rig(room: usize) -> Rig {
    let tape = Arc::new(Tape::default());
    tape.give_room(room);
    let irq = IrqLine::new().unwrap();
    let wanted = EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = Serial::new(irq.clone(), tape.clone(), wanted.try_clone().unwrap());
    Rig {
        serial,
        tape,
        irq,
        wanted,
    }
}

impl Rig {
    fn get(&self, offset: u64) -> u8 {
        let mut data = [0xff];
        self.serial.read(offset, &mut data);
        data[0]
    }
    fn set(&self, offset: u64, value: u8) {
        assert_eq!(self.serial.write(offset, &[value]), Effect::None);
    }
    fn irqs(&self) -> u64 {
        self.irq.event().read().unwrap_or(0)
    }
    fn listen(&self) {
        self.set(FCR, 0x81);
        self.set(IER, 0x05);
    }
}

#[test]
fn a_linux_probe_finds_a_16550a() {
    let r = rig(100);
    // Interrupt enable bits.
    r.set(IER, 0);
    assert_eq!(r.get(IER), 0);
    r.set(IER, 0x0f);
    assert_eq!(r.get(IER), 0x0f);
    r.set(IER, 0xf0);
    assert_eq!(r.get(IER), 0, "an XScale UART keeps bit 6");
    // Loopback of the modem lines.
    r.set(MCR, 0x1a);
    assert_eq!(r.get(MSR) & 0xf0, 0x90);
    r.set(MCR, 0);
    // The FIFO bits, then the registers by which better chips give themselves away.
    r.set(LCR, 0xbf);
    r.set(FCR, 0);
    r.set(LCR, 0);
    r.set(FCR, 1);
    assert_eq!(r.get(IIR) >> 6, 3);
    for lcr in [0x80, 0xbf] {
        r.set(LCR, lcr);
        assert_ne!(r.get(FCR), 0, "0 would be an EFR");
    }
    r.set(LCR, 0);
    r.set(FCR, 0x21);
    let plain = r.get(IIR) >> 5;
    r.set(LCR, 0x80);
    r.set(FCR, 0x21);
    assert!(plain != 6 || r.get(IIR) >> 5 != 7, "a 16750");
    r.set(LCR, 0);
    // Counting the FIFO in loopback mode.
    r.set(FCR, 7);
    r.set(MCR, 0x10);
    for byte in 0..=255 {
        r.set(THR, byte);
    }
    let mut count = 0u8;
    while r.get(LSR) & 1 != 0 && count < u8::MAX {
        assert_eq!(r.get(RBR), count);
        count += 1;
    }
    assert_eq!(count, 16);
    assert!(r.tape.bytes().is_empty(), "loopback is silent");
    r.set(SCR, 0x5a);
    assert_eq!(r.get(SCR), 0x5a);
}

#[test]
fn the_transmit_interrupt_passes_linux_tests() {
    let r = rig(100);
    for _ in 0..2 {
        r.set(IER, 2);
        assert_eq!(r.irqs(), 1, "enabling it while idle raises it");
        assert_eq!(r.get(IIR) & 0x0f, 2);
        assert_eq!(r.get(IIR) & 0x0f, 1, "reading takes it back");
        r.set(IER, 0);
    }
}

#[test]
fn one_interrupt_sends_a_whole_buffer() {
    let r = rig(1000);
    r.set(FCR, 1);
    r.set(IER, 2);
    assert_eq!(r.irqs(), 1);
    let message: Vec<u8> = (0..100).collect();
    let mut chunks = message.chunks(16);
    let mut passes = 0;
    while r.get(IIR) & 1 == 0 {
        passes += 1;
        assert_eq!(r.get(LSR) & 0x60, 0x60);
        match chunks.next() {
            Some(chunk) => chunk.iter().for_each(|&b| r.set(THR, b)),
            None => r.set(IER, 0),
        }
    }
    assert_eq!((r.tape.bytes(), passes), (message, 8));
    r.set(IER, 2);
    r.get(IIR);
    r.irqs();
    r.set(THR, b'x');
    assert_eq!(r.irqs(), 1, "a driver that does not loop gets its next interrupt");
}

#[test]
fn a_full_output_stops_the_transmitter_until_it_drains() {
    let r = rig(3);
    r.set(FCR, 1);
    r.set(IER, 2);
    assert_eq!(r.get(IIR) & 0x0f, 2);
    r.irqs();
    let burst: Vec<u8> = (0..16).collect();
    for &byte in &burst {
        r.set(THR, byte);
    }
    r.irqs();
    assert_eq!(r.get(LSR) & 0x60, 0);
    assert_eq!(r.get(IIR) & 0x0f, 1);
    r.serial.output_drained();
    assert_eq!((r.irqs(), r.tape.len()), (0, 3), "it did not drain");
    r.tape.give_room(13);
    r.serial.output_drained();
    assert_eq!((r.irqs(), r.tape.bytes()), (0, burst), "full again by what was held");
    r.tape.give_room(1);
    r.serial.output_drained();
    assert_eq!(r.irqs(), 1);
    assert_eq!(r.get(IIR) & 0x0f, 2);
    assert_eq!((r.get(LSR) & 0x60, r.serial.dropped()), (0x60, 0));
}

#[test]
fn a_look_at_lsr_finds_room_without_being_told() {
    let r = rig(0);
    assert_eq!(r.get(LSR) & 0x60, 0, "no room from the start");
    r.set(THR, b'a');
    r.tape.give_room(2);
    assert_eq!(r.get(LSR) & 0x60, 0x60);
    assert_eq!(r.tape.bytes(), b"a");
}

#[test]
fn a_guest_that_ignores_thre_loses_bytes_and_they_are_counted() {
    let r = rig(0);
    for _ in 0..FIFO_SIZE + 5 {
        r.set(THR, b'x');
    }
    assert_eq!(r.serial.dropped(), 5);
    r.set(FCR, 7);
    r.tape.give_room(1000);
    r.serial.output_drained();
    assert_eq!(r.tape.len(), FIFO_SIZE, "clearing the FIFO loses nothing");
}

#[test]
fn a_string_write_is_several_bytes_at_the_data_register_only() {
    let r = rig(100);
    assert_eq!(r.serial.write(THR, b"hello"), Effect::None);
    assert_eq!(r.serial.write(SCR, b"ab"), Effect::None);
    assert_eq!((r.tape.bytes(), r.get(SCR)), (b"hello".to_vec(), b'a'));
    let mut data = [0xff; 4];
    r.serial.read(SCR, &mut data);
    assert_eq!(data, [b'a', 0, 0, 0]);
    assert_eq!(r.serial.write(THR, &[]), Effect::None);
    r.serial.read(THR, &mut []);
}

#[test]
fn input_raises_one_interrupt_and_is_read_in_order() {
    let r = rig(1);
    r.listen();
    assert_eq!(r.serial.receive(b"0123456"), 7);
    assert_eq!(r.irqs(), 1);
    assert_eq!(r.get(IIR), 0xcc, "below the trigger of 8: a timeout");
    assert_eq!(r.serial.receive(b"7"), 1);
    assert_eq!((r.get(IIR), r.irqs()), (0xc4, 0), "the line was up all the time");
    for byte in b"01234567" {
        assert_eq!(r.get(LSR) & 1, 1);
        assert_eq!(r.get(RBR), *byte);
    }
    assert_eq!((r.get(LSR) & 1, r.get(IIR), r.get(RBR)), (0, 0xc1, 0));
    r.serial.receive(b"x");
    assert_eq!(r.irqs(), 1);
    r.set(FCR, 0);
    assert_eq!(
        (r.get(IIR), r.get(RBR)),
        (0x04, b'x'),
        "without FIFOs there is no timeout"
    );
}

#[test]
fn masking_and_unmasking_raises_the_interrupt_again() {
    let r = rig(1);
    r.listen();
    r.serial.receive(b"x");
    assert_eq!(r.irqs(), 1);
    r.set(IER, 0);
    r.set(IER, 5);
    assert_eq!(r.irqs(), 1, "what a console write does to the enable register");
}

#[test]
fn input_survives_the_opening_of_the_port() {
    let r = rig(1);
    assert_eq!(r.serial.receive(b"typed early"), 11);
    for fcr in [1, 7, 0] {
        r.set(FCR, fcr);
    }
    for register in [LSR, RBR, IIR, MSR, LSR, IIR, LSR, RBR] {
        assert_eq!(r.get(register) & u8::from(register == LSR), 0);
    }
    r.set(MCR, 0x10);
    assert_eq!((r.get(LSR) & 1, r.get(RBR)), (0, 0), "loopback cuts the line");
    r.set(MCR, 0x0b);
    assert_eq!(r.irqs(), 0);
    r.set(IER, 0x05);
    assert_eq!(r.irqs(), 1);
    for fcr in [1, 0x87] {
        r.set(FCR, fcr);
    }
    let read: Vec<u8> = std::iter::from_fn(|| (r.get(LSR) & 1 != 0).then(|| r.get(RBR))).collect();
    assert_eq!(read, b"typed early");
}

#[test]
fn a_guest_that_polls_gets_input() {
    let r = rig(10);
    r.serial.receive(b"hi");
    let mut read = Vec::new();
    for _ in 0..8 {
        if r.get(LSR) & 1 != 0 {
            let byte = r.get(RBR);
            read.push(byte);
            r.set(THR, byte);
        }
    }
    assert_eq!((read, r.tape.bytes()), (b"hi".to_vec(), b"hi".to_vec()));
}

#[test]
fn a_full_queue_refuses_and_asks_for_more_later() {
    let r = rig(1);
    r.listen();
    let input: Vec<u8> = (0..=255).cycle().take(INPUT_SIZE + 10).collect();
    assert_eq!(r.serial.receive(&input), INPUT_SIZE);
    assert!(!r.serial.send_break());
    assert!(r.wanted.read().is_err());
    let mut read: Vec<u8> = (0..INPUT_SIZE / 2).map(|_| r.get(RBR)).collect();
    assert!(r.wanted.read().is_err(), "not for each byte");
    read.extend((0..INPUT_SIZE / 2).map(|_| r.get(RBR)));
    assert_eq!(r.wanted.read().unwrap(), 1);
    assert_eq!(r.serial.receive(&input[INPUT_SIZE..]), 10);
    read.extend((0..10).map(|_| r.get(RBR)));
    assert_eq!(read, input);
    assert!(r.wanted.read().is_err(), "nothing was refused since");
}

#[test]
fn a_break_comes_in_order_and_is_reported_once() {
    let r = rig(1);
    r.listen();
    r.serial.receive(b"a");
    assert!(r.serial.send_break());
    r.serial.receive(b"b");
    assert_eq!(r.get(IIR) & 0x0f, 0x0c);
    assert_eq!(r.get(LSR) & 0x91, 0x81, "an error further on in the FIFO");
    assert_eq!(r.get(RBR), b'a');
    assert_eq!(r.get(IIR) & 0x0f, 6);
    assert_eq!(r.get(LSR) & 0x91, 0x91);
    assert_eq!(r.get(LSR) & 0x91, 0x01, "reading LSR clears it");
    assert_eq!((r.get(RBR), r.get(RBR)), (0, b'b'));
}

#[test]
fn loopback_overrun_is_an_error_that_reading_clears() {
    let r = rig(1);
    r.set(MCR, 0x10);
    r.set(IER, 4);
    r.set(THR, b'1');
    r.set(THR, b'2');
    assert_eq!((r.irqs(), r.get(IIR)), (1, 6));
    assert_eq!(r.get(LSR) & 3, 3);
    assert_eq!((r.get(LSR) & 3, r.get(IIR), r.get(RBR)), (1, 1, b'1'));
    r.set(THR, b'3');
    r.set(FCR, 1);
    assert_eq!(r.get(LSR) & 1, 0, "switching the FIFOs on clears them");
}

#[test]
fn modem_lines_stand_still_but_for_loopback() {
    let r = rig(1);
    assert_eq!(r.get(MSR), 0xb0);
    r.set(IER, 8);
    r.set(MCR, 0x1f);
    assert_eq!((r.irqs(), r.get(MSR)), (0, 0xf0), "a ring that starts is no change");
    r.set(MCR, 0x1b);
    assert_eq!((r.irqs(), r.get(IIR) & 0x0f), (1, 0));
    assert_eq!((r.get(MSR), r.get(MSR)), (0xb4, 0xb0), "reading clears the changes");
}

#[test]
fn the_divisor_latches_cover_data_and_enable() {
    let r = rig(10);
    r.set(LCR, 0x83);
    r.set(0, 0x0c);
    r.set(1, 0x34);
    assert_eq!((r.get(0), r.get(1)), (0x0c, 0x34));
    r.set(LCR, 0x03);
    assert_eq!((r.get(LCR), r.get(IER), r.tape.len()), (3, 0, 0));
}

#[test]
fn survives_random_accesses_within_its_bounds() {
    let r = rig(10_000);
    let mut sent = 0;
    scribble(&r.serial, SIZE, 20_000, |dice, effect| {
        assert_eq!(effect, Effect::None);
        match dice.below(8) {
            0 => {
                sent += 1;
                assert!(r.serial.receive(&[7; 100]) <= 100);
            }
            1 => r.serial.output_drained(),
            2 => r.tape.give_room(dice.below(40) as usize),
            3 => drop(r.serial.send_break()),
            _ => {}
        }
    });
    assert!(sent > 0 && !r.tape.bytes().is_empty());
}

/// What an interrupt-driven driver does, in the order in which Linux does it.
struct Driver<'a> {
    rig: &'a Rig,
    ier: u8,
    to_send: std::vec::IntoIter<u8>,
    received: Vec<u8>,
}

impl Driver<'_> {
    fn interrupt(&mut self) {
        while self.rig.get(IIR) & 1 == 0 {
            let mut status = self.rig.get(LSR);
            while status & 1 != 0 {
                self.received.push(self.rig.get(RBR));
                status = self.rig.get(LSR);
            }
            self.rig.get(MSR);
            if status & 0x20 != 0 && self.ier & 2 != 0 {
                for byte in self.to_send.by_ref().take(16) {
                    self.rig.set(THR, byte);
                }
                if self.to_send.as_slice().is_empty() {
                    self.ier &= !2;
                    self.rig.set(IER, self.ier);
                }
            }
        }
    }

    /// A line on the console masks the interrupts for a while, new terminal settings clear the FIFOs.
    fn disturb(&mut self) {
        self.rig.set(IER, 0);
        self.rig.get(LSR);
        self.rig.set(IER, self.ier);
        self.rig.set(FCR, 1);
        self.rig.set(FCR, 0x87);
    }
}

/// Takes some of what the output holds and makes as much room, until all of `total` bytes have come.
fn drain(rig: &Rig, total: usize, stop: Instant) {
    let mut dice = Dice::new(1);
    while rig.tape.len() < total {
        assert!(Instant::now() < stop, "the guest stopped sending");
        rig.tape.give_room(1 + dice.below(200) as usize);
        rig.serial.output_drained();
        std::thread::yield_now();
    }
}

fn feed(rig: &Rig, bytes: &[u8], stop: Instant) {
    let mut dice = Dice::new(2);
    let mut rest = bytes;
    while !rest.is_empty() {
        let offer = &rest[..rest.len().min(1 + dice.below(400) as usize)];
        let taken = rig.serial.receive(offer);
        rest = &rest[taken..];
        while taken < offer.len() && rig.wanted.read().is_err() {
            assert!(Instant::now() < stop, "input was refused and never wanted again");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_driver_loses_nothing_in_either_direction() {
    let r = rig(10);
    let message: Vec<u8> = (0..30_000u32).map(|i| (i % 251) as u8).collect();
    let stop = Instant::now() + Duration::from_secs(20);
    let mut driver = Driver {
        rig: &r,
        ier: 7,
        to_send: message.clone().into_iter(),
        received: Vec::new(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| drain(&r, message.len(), stop));
        scope.spawn(|| feed(&r, &message, stop));
        r.set(FCR, 0x81);
        r.set(IER, driver.ier);
        let mut interrupts = 0u32;
        while driver.received.len() < message.len() || r.tape.len() < message.len() {
            if r.irqs() == 0 {
                assert!(Instant::now() < stop, "an interrupt is missing");
                std::thread::yield_now();
                continue;
            }
            interrupts += 1;
            if !interrupts.is_multiple_of(3) {
                driver.disturb();
            }
            driver.interrupt();
        }
    });
    assert!(driver.received == message && r.tape.bytes() == message);
    assert_eq!(r.serial.dropped(), 0);
}
