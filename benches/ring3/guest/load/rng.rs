//! Random bytes (§5.4): a request is a buffer to be filled.
use super::{BUFFERS, Load, RINGS, drive};
use crate::{
    Failure,
    device::Device,
    order::{Order, Report},
    queue::WRITE,
};

struct Random {
    bytes: u64,
}

pub fn run(device: &mut Device, order: &Order, features: u64) -> Result<Report, Failure> {
    device.negotiate(features)?;
    let mut queue = device.queue(0, &RINGS[0])?;
    for (slot, buffer) in BUFFERS.iter().enumerate().take(order.depth as usize) {
        buffer.touch(order.bytes);
        queue.descriptor(slot).set(buffer.at(), order.bytes, WRITE, 0);
    }
    device.start()?;
    drive(device, &mut queue, &mut Random { bytes: order.bytes }, order)
}

impl Load for Random {
    fn ask(&mut self, _: usize, _: u64) {}

    fn check(&self, _: usize, written: u32) -> Result<(), Failure> {
        match u64::from(written) {
            0 => Err("no random bytes came"),
            written if written > self.bytes => Err("more random bytes came than there is room for"),
            _ => Ok(()),
        }
    }
}
