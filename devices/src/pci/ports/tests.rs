use super::*;
use crate::{pci::root::Apertures, scribble::scribble};

fn ports() -> ConfigPorts {
    ConfigPorts::new(Arc::new(Root::new(Apertures { memory: 0..0, io: 0..0 })))
}

fn read(device: &ConfigPorts, address: u32, byte: u64, width: usize) -> u32 {
    assert_eq!(device.write(0, &address.to_le_bytes()), Effect::None);
    let mut data = [0; 4];
    data[..width].fill(0xff);
    device.read(DATA + byte, &mut data[..width]);
    u32::from_le_bytes(data)
}

#[test]
fn the_host_bridge_answers_and_nothing_else_does() {
    let device = ports();
    assert_eq!(read(&device, ENABLE, 0, 4), 0x0008_1b36);
    assert_eq!(read(&device, ENABLE | 8, 2, 2), 0x0600, "the class");
    assert_eq!(read(&device, ENABLE | 0xc, 2, 1), 0, "one function");
    for other in [ENABLE | 1 << 11, ENABLE | 1 << 8, ENABLE | 1 << 16, 0] {
        assert_eq!(read(&device, other, 0, 4), u32::MAX, "{other:#x}");
    }
}

#[test]
fn the_address_reads_back_as_a_probe_expects() {
    let device = ports();
    let _ = device.write(0, &ENABLE.to_le_bytes());
    let _ = device.write(3, &[1]); // mechanism #2 is probed by bytes, which must not latch
    let mut data = [0; 4];
    device.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), ENABLE);
}

#[test]
fn survives_random_accesses() {
    scribble(&ports(), SIZE, 4000, |_, effect| {
        assert_eq!(effect, Effect::None);
    });
}
