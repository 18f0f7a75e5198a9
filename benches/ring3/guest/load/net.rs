//! A network card (§5.1): a request is a frame sent and its answer received.
//!
//! The frames ask by ARP for the address of the host's end of the cable. A TAP interface with [`HOST`] has the host's kernel
//! answer them; an end that sends back what it gets will do as well.
use super::{BUFFERS, RINGS, clock, wait};
use crate::{
    Failure,
    device::Device,
    order::{NET_GUEST as GUEST, NET_HOST as HOST, Order, Report},
    queue::{Queue, SIZE, WRITE},
};
use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const STATUS: u64 = 1 << 16;
/// The second word of the configuration ends with the status (§5.1.4), whose first bit is the link's.
const CONFIG: u64 = 4;
const LINK_UP: u64 = 1 << 16;
/// Looks at the link, with [`PAUSE`] between them: some seconds.
const LOOKS: u64 = 5000;
const PAUSE: u64 = 1 << 21;

/// Bytes of the virtio header (§5.1.6), of what a frame of ARP has, of the smallest frame and of the largest.
const HEADER: usize = 12;
const ARP: usize = 42;
const SMALLEST: usize = 60;
const LARGEST: usize = 1514;
const ROOM: usize = 2048;

/// The frames that are sent, one for each that may be under way, aligned so that none crosses a page.
static FRAMES: [Frame; SIZE] = [const { Frame([const { AtomicU64::new(0) }; ROOM / 8]) }; SIZE];

#[repr(C, align(2048))]
struct Frame([AtomicU64; ROOM / 8]);

/// Both queues of the card.
struct Card {
    receive: Queue,
    transmit: Queue,
    /// A bit for each frame that the device does not have.
    free: u64,
    sent: u64,
    answered: u64,
}

pub fn run(device: &mut Device, order: &Order, features: u64) -> Result<Report, Failure> {
    let bytes = order.bytes as usize;
    if !(SMALLEST..=LARGEST).contains(&bytes) {
        return Err("a frame has 60 to 1514 bytes");
    }
    device.negotiate(features | STATUS)?;
    let mut card = Card {
        receive: device.queue(RECEIVE, &RINGS[0])?,
        transmit: device.queue(TRANSMIT, &RINGS[1])?,
        free: u64::MAX,
        sent: 0,
        answered: 0,
    };
    let question = question();
    for slot in 0..SIZE {
        BUFFERS[slot].touch(ROOM as u64);
        card.receive
            .descriptor(slot)
            .set(BUFFERS[slot].at(), ROOM as u64, WRITE, 0);
        card.receive.add(slot);
        for (word, text) in FRAMES[slot].0.iter().zip(question.as_chunks().0) {
            word.store(u64::from_le_bytes(*text), Ordering::Relaxed);
        }
        let at = FRAMES[slot].0.as_ptr().addr() as u64;
        card.transmit.descriptor(slot).set(at, (HEADER + bytes) as u64, 0, 0);
    }
    device.start()?;
    card.receive.publish();
    wait_for_link(device)?;
    let start = clock();
    card.drive(device, order)?;
    Ok(Report {
        requests: card.answered,
        ticks: clock() - start,
        kicks: card.receive.kicks() + card.transmit.kicks(),
    })
}

impl Card {
    fn drive(&mut self, device: &Device, order: &Order) -> Result<(), Failure> {
        let mut idle = 0;
        while self.answered < order.requests {
            while let Some((slot, _)) = self.transmit.take() {
                self.free |= 1 << slot;
            }
            while let Some((slot, written)) = self.receive.take() {
                if is_answer(slot, written) {
                    idle = 0;
                    self.answered += 1;
                }
                self.receive.add(slot);
            }
            while self.sent < order.requests && self.sent - self.answered < order.depth && self.free != 0 {
                let slot = self.free.trailing_zeros() as usize;
                self.free &= self.free - 1;
                self.transmit.add(slot);
                self.sent += 1;
            }
            // Room before questions: no answer shall find none.
            self.receive.publish();
            self.transmit.publish();
            wait(device, &mut idle)?;
        }
        Ok(())
    }
}

/// The virtio header, which asks for nothing, and the frame. What is sent of it beyond ARP's bytes is zero.
fn question() -> [u8; 56] {
    const { assert!(HEADER + ARP <= 56) };
    let mut bytes = [0; 56];
    let frame = &mut bytes[HEADER..HEADER + ARP];
    let mac = [0x06, 0, 198, 18, 0, 2];
    frame[..6].fill(0xff); // to everybody
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]); // ARP
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]); // Ethernet, IPv4, lengths, a question
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&GUEST);
    frame[38..42].copy_from_slice(&HOST);
    bytes
}

/// Whether a received frame is an answer of ARP, or the question itself: the host's kernel may send other things as well.
fn is_answer(slot: usize, written: u32) -> bool {
    let word = |index| BUFFERS[slot].word(index).load(Ordering::Relaxed).to_le_bytes();
    let (types, operation, sender) = (word(3), word(4), word(5));
    written as usize >= HEADER + ARP && types[..2] == [0x08, 0x06] && (operation[..2] == [0, 2] || sender[..4] == GUEST)
}

fn wait_for_link(device: &Device) -> Result<(), Failure> {
    for _ in 0..LOOKS {
        if !device.has(STATUS) || device.config(CONFIG) & LINK_UP != 0 {
            return Ok(());
        }
        let start = clock();
        while clock() - start < PAUSE {
            spin_loop();
        }
    }
    Err("nothing is at the other end of the cable")
}
