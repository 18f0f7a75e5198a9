//! Any accesses to the registers of a device, with any ring in memory: it answers all of them, and a reset brings it back.
#![no_main]
use coracle_devices::{
    bus::BusDevice,
    irq::IrqLine,
    virtio::{
        Transport,
        function::Function,
        io_thread::IoThread,
        mmio::{MmioTransport, WINDOW},
        rng::Rng,
        testing,
    },
};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

fuzz_target!(|input: &[u8]| {
    let memory = testing::memory();
    let thread = Arc::new(IoThread::spawn("fuzz").unwrap());
    let rng = Rng::new(|to| {
        to.fill(7);
        Ok(())
    });
    let transport = MmioTransport::new("fuzz", IrqLine::new().unwrap(), |signals| {
        Function::new(rng, vec![thread], memory.clone(), signals)
    })
    .unwrap();
    for step in input.chunks_exact(6) {
        let [kind, at, value @ ..] = step else { return };
        let offset = u64::from(*at) * 2 % (WINDOW - 3);
        let value: [u8; 4] = value.try_into().unwrap();
        match kind % 8 {
            // A driver that goes the right way most of the time.
            0 => {
                for status in [0_u32, 1, 3] {
                    let _ = transport.write(0x70, &status.to_le_bytes());
                }
                let _ = transport.write(0x24, &1_u32.to_le_bytes());
                let _ = transport.write(0x20, &1_u32.to_le_bytes());
                let _ = transport.write(0x70, &11_u32.to_le_bytes());
            }
            1 => {
                let driver = testing::Driver::at(memory.clone(), 16, 0).queue;
                for (offset, value) in [
                    (0x80, driver.descriptors),
                    (0x90, driver.available),
                    (0xa0, driver.used),
                ] {
                    let _ = transport.write(offset, &(value as u32).to_le_bytes());
                }
                let _ = transport.write(0x44, &1_u32.to_le_bytes());
                let _ = transport.write(0x70, &15_u32.to_le_bytes());
            }
            2 => memory
                .write_slice(&value, GuestAddress(0x1000 + u64::from(*at) * 4))
                .unwrap(),
            3 => memory
                .write_slice(&value[..2], GuestAddress(0x4000 + u64::from(*at) / 4 * 2))
                .unwrap(),
            4 => {
                transport.pause();
                transport.resume();
            }
            5 => {
                let mut data = [0; 8];
                let len = usize::from(value[0] % 8) + 1;
                transport.read(offset.min(WINDOW - len as u64), &mut data[..len]);
            }
            6 => {
                let _ = transport.write(0x50, &[value[0] % 3, 0, 0, 0]);
            }
            _ => {
                let _ = transport.write(offset, &value);
            }
        }
    }
    let _ = transport.write(0x70, &[0; 4]);
    let mut status = [1; 4];
    transport.read(0x70, &mut status);
    assert_eq!(status, [0; 4]);
});
