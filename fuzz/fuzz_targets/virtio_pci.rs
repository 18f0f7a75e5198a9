//! Any accesses to the config space and the BARs of a function, with any ring in memory: it answers all of them, no BAR leaves
//! its aperture, and a reset brings the device back.
#![no_main]
use coracle_devices::{
    bus::Effect,
    irq::IrqLine,
    pci::{
        Space,
        doorbell::Doorbells,
        msix::{Message, MsiBackend, MsiError, MsiRoute},
        root::{Apertures, Root},
    },
    virtio::{
        Transport,
        function::Function,
        io_thread::IoThread,
        pci::{PciTransport, TransportError, Wiring},
        rng::Rng,
        testing,
    },
};
use libfuzzer_sys::fuzz_target;
use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    sync::{Arc, Mutex},
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const FUNCTION: u8 = 1 << 3;
const MEMORY: Range<u64> = 0xe000_0000..0xe002_0000;
const IO: Range<u64> = 0x1000..0x1100;

/// Refuses messages with odd data.
struct Host(Mutex<BTreeSet<(bool, u64)>>);

impl MsiBackend for Host {
    fn route(&self, _: IrqLine) -> Box<dyn MsiRoute> {
        Box::new(Route)
    }
}

struct Route;

impl MsiRoute for Route {
    fn connect(&mut self, message: Message) -> Result<(), MsiError> {
        if message.data % 2 == 0 {
            Ok(())
        } else {
            Err(MsiError::Nowhere(message))
        }
    }
    fn disconnect(&mut self) {}
}

impl Doorbells for Host {
    fn connect(&self, space: Space, at: u64, _: &EventFd) -> io::Result<()> {
        let aperture = if space == Space::Io { IO } else { MEMORY };
        assert!(aperture.contains(&at));
        assert!(self.0.lock().unwrap().insert((space == Space::Io, at)));
        Ok(())
    }
    fn disconnect(&self, space: Space, at: u64, _: &EventFd) {
        assert!(self.0.lock().unwrap().remove(&(space == Space::Io, at)));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, input)) = input.split_first() else {
        return;
    };
    let memory = testing::memory();
    let host = Arc::new(Host(Mutex::default()));
    let wiring = Wiring {
        messages: host.clone(),
        doorbells: host.clone(),
        ports: flags & 1 == 0,
    };
    let thread = Arc::new(IoThread::spawn("fuzz").unwrap());
    let rng = Rng::new(|to| {
        to.fill(7);
        Ok(())
    });
    let (transport, space) = PciTransport::new("fuzz", &wiring, |signals| {
        Function::new(rng, vec![thread], memory.clone(), signals).map_err(TransportError::from)
    })
    .unwrap();
    let transport = Arc::new(transport);
    let root = Root::new(Apertures { memory: MEMORY, io: IO });
    assert_eq!(root.plug(space, transport.clone()).unwrap().number(), FUNCTION);
    let bar =
        |offset: u64, data: &[u8]| assert_eq!(root.write(Space::Memory, MEMORY.start + offset, data), Effect::None);
    for step in input.chunks_exact(7) {
        let [kind, at, high, value @ ..] = step else { return };
        let offset = u64::from(u16::from_le_bytes([*at, *high]));
        let value: [u8; 4] = value.try_into().unwrap();
        let width = 1 << (kind >> 6).min(2);
        match kind % 16 {
            // A driver that goes the right way most of the time.
            0 => {
                let _ = root.write_config(FUNCTION, 0x10, &(MEMORY.start as u32).to_le_bytes());
                let _ = root.write_config(FUNCTION, 4, &[3, 0]);
                for status in [0, 1, 3] {
                    bar(0x14, &[status]);
                }
                bar(8, &1_u32.to_le_bytes());
                bar(12, &1_u32.to_le_bytes());
                bar(0x14, &[11]);
            }
            1 => {
                let driver = testing::Driver::at(memory.clone(), 16, 0).queue;
                bar(0x18, &16_u16.to_le_bytes());
                for (offset, value) in [
                    (0x20, driver.descriptors),
                    (0x28, driver.available),
                    (0x30, driver.used),
                ] {
                    bar(offset, &(value as u32).to_le_bytes());
                }
                bar(0x1c, &[1, 0]);
                bar(0x14, &[15]);
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
            5..8 => assert_eq!(root.write_config(FUNCTION, (*at).into(), &value[..width]), Effect::None),
            8 => root.read_config(
                FUNCTION,
                u16::from_le_bytes([*at, *high]) & 0xfff,
                &mut [0; 8][..width * 2],
            ),
            9 => root.read(Space::Memory, MEMORY.start + offset, &mut [0; 8][..width * 2]),
            10 => bar(0x1000, &value[..2]),
            11 => assert_eq!(
                root.write(Space::Io, IO.start + u64::from(*at), &value[..width]),
                Effect::None
            ),
            12 => bar(0x2000 + u64::from(*at), &value[..width]),
            13 => bar(offset % 0x8000, &value[..width]),
            _ => bar(u64::from(*at) % 0x38, &value[..width]),
        }
    }
    let _ = root.write_config(FUNCTION, 0x10, &(MEMORY.start as u32).to_le_bytes());
    let _ = root.write_config(FUNCTION, 0x14, &[0; 4]);
    let _ = root.write_config(FUNCTION, 4, &[2, 0]);
    bar(0x14, &[0]);
    let mut status = [1];
    root.read(Space::Memory, MEMORY.start + 0x14, &mut status);
    assert_eq!(status, [0]);
    let _ = root.write_config(FUNCTION, 4, &[0, 0]);
    assert!(host.0.lock().unwrap().is_empty());
});
