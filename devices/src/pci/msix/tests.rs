use super::*;
use crate::scribble::Dice;
use std::sync::{Arc, Mutex};

/// What became of the vectors, in order.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Connect(usize, Message),
    Disconnect(usize),
}

/// Remembers calls, and takes interrupts off connected lines as an interrupt controller does.
#[derive(Default, Clone)]
struct Log {
    calls: Arc<Mutex<Vec<Call>>>,
    routes: Arc<Mutex<usize>>,
}

struct Route {
    calls: Arc<Mutex<Vec<Call>>>,
    index: usize,
    line: IrqLine,
}

impl MsiBackend for Log {
    fn route(&self, line: IrqLine) -> Box<dyn MsiRoute> {
        let mut routes = self.routes.lock().unwrap();
        let index = *routes;
        *routes += 1;
        Box::new(Route {
            calls: self.calls.clone(),
            index,
            line,
        })
    }
}

impl MsiRoute for Route {
    fn connect(&mut self, message: Message) -> Result<(), MsiError> {
        if message.address == 0 {
            return Err(MsiError::Nowhere(message));
        }
        self.calls.lock().unwrap().push(Call::Connect(self.index, message));
        let _ = self.line.event().read();
        Ok(())
    }
    fn disconnect(&mut self) {
        self.calls.lock().unwrap().push(Call::Disconnect(self.index));
    }
}

impl Log {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

const VECTORS: u16 = 11;
const MESSAGE: Message = Message {
    address: 0xfee0_1000,
    data: 0x4021,
};

fn table() -> (Msix, Log) {
    let log = Log::default();
    (Msix::new(VECTORS, &log).unwrap(), log)
}

/// Writes a vector's message, then its control word.
fn program(msix: &mut Msix, vector: u64, message: Message, control: u32) {
    msix.write_table(vector * ENTRY, &message.address.to_le_bytes());
    msix.write_table(vector * ENTRY + 8, &message.data.to_le_bytes());
    msix.write_table(vector * ENTRY + 12, &control.to_le_bytes());
}

fn pending(msix: &Msix) -> u16 {
    let mut data = [0xff; 8];
    msix.read_pending(0, &mut data);
    assert_eq!(data[2..], [0; 6]);
    u16::from_le_bytes([data[0], data[1]])
}

#[test]
fn a_vector_is_connected_only_while_nothing_masks_it() {
    let (mut msix, log) = table();
    program(&mut msix, 2, MESSAGE, 0);
    assert_eq!(log.take(), [], "MSI-X is off");
    msix.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!(log.take(), [], "the function is masked");
    msix.set_control(ENABLE);
    assert_eq!(log.take(), [Call::Connect(2, MESSAGE)]);
    program(&mut msix, 2, MESSAGE, 1);
    program(&mut msix, 2, MESSAGE, 1);
    assert_eq!(log.take(), [Call::Disconnect(2)]);
    program(&mut msix, 2, MESSAGE, 0);
    msix.set_control(0);
    assert_eq!(log.take(), [Call::Connect(2, MESSAGE), Call::Disconnect(2)]);
}

#[test]
fn a_message_changed_behind_the_mask_is_used_at_once() {
    let (mut msix, log) = table();
    msix.set_control(ENABLE);
    program(&mut msix, 0, MESSAGE, 0);
    let other = Message {
        data: 0x4022,
        ..MESSAGE
    };
    msix.write_table(12, &1u32.to_le_bytes());
    program(&mut msix, 0, other, 0);
    assert_eq!(
        log.take(),
        [Call::Connect(0, MESSAGE), Call::Disconnect(0), Call::Connect(0, other)]
    );
}

#[test]
fn the_table_takes_and_gives_every_width() {
    let (mut msix, log) = table();
    let mut bytes = [0; 16];
    msix.read_table(ENTRY, &mut bytes);
    assert_eq!(
        bytes,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        "masked after reset"
    );
    let image: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap() + 1);
    for width in [1, 2, 4, 8] {
        msix.write_table(ENTRY, &[0; 8]);
        msix.write_table(ENTRY + 8, &[0; 8]);
        for (index, part) in image.chunks(width).enumerate() {
            msix.write_table(ENTRY + (index * width) as u64, part);
        }
        let mut read = Vec::new();
        for index in 0..16 / width {
            let mut part = vec![0xff; width];
            msix.read_table(ENTRY + (index * width) as u64, &mut part);
            read.extend(part);
        }
        assert_eq!(read[..12], image[..12], "width {width}");
        assert_eq!(read[12..], [1, 0, 0, 0], "of vector control only the mask is there");
    }
    let mut behind = [0xff; 4];
    msix.read_table(u64::from(VECTORS) * ENTRY, &mut behind);
    msix.write_table(u64::from(VECTORS) * ENTRY, &[0; 8]);
    assert_eq!(behind, [0xff; 4]);
    assert_eq!(log.take(), []);
}

#[test]
fn an_interrupt_of_a_masked_vector_is_pending_until_it_is_sent() {
    let (mut msix, _log) = table();
    msix.set_control(ENABLE);
    program(&mut msix, 9, MESSAGE, 1);
    let line = msix.line(9).unwrap();
    line.raise();
    line.raise();
    assert_eq!(
        (pending(&msix), pending(&msix)),
        (1 << 9, 1 << 9),
        "a look changes nothing"
    );
    let mut second = [0];
    msix.read_pending(1, &mut second);
    assert_eq!(second, [2], "by bytes too");
    program(&mut msix, 9, MESSAGE, 0);
    assert_eq!(pending(&msix), 0);
    line.raise();
    assert_eq!(pending(&msix), 0, "a connected line's interrupts are on their way");
}

#[test]
fn what_is_pending_ends_with_msix() {
    let (mut msix, _log) = table();
    msix.set_control(ENABLE | FUNCTION_MASK);
    program(&mut msix, 1, MESSAGE, 0);
    msix.line(1).unwrap().raise();
    assert_eq!(pending(&msix), 2);
    msix.set_control(0);
    assert_eq!(pending(&msix), 0);
}

#[test]
fn a_message_that_leads_nowhere_leaves_the_vector_disconnected() {
    let (mut msix, log) = table();
    msix.set_control(ENABLE);
    let nowhere = Message { address: 0, data: 1 };
    program(&mut msix, 0, nowhere, 0);
    assert_eq!(log.take(), [Call::Disconnect(0)]);
    msix.line(0).unwrap().raise();
    assert_eq!(pending(&msix), 1);
    program(&mut msix, 0, MESSAGE, 0);
    assert!(log.take().contains(&Call::Connect(0, MESSAGE)));
}

#[test]
fn the_capability_names_table_and_pending_bits() {
    let (body, writable) = Msix::capability(VECTORS, 1, 0x2000, 0x3000);
    assert_eq!(body, [10, 0, 1, 0x20, 0, 0, 1, 0x30, 0, 0]);
    assert_eq!(writable, [0, 0xc0]);
}

#[test]
fn survives_random_accesses() {
    let (mut msix, log) = table();
    let mut dice = Dice::new(7);
    for _ in 0..20_000 {
        let width = 1 << dice.below(4);
        let mut data: Vec<u8> = (0..width).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
        let offset = dice.below(0x200);
        match dice.below(4) {
            0 => msix.read_table(offset, &mut data),
            1 => msix.write_table(offset, &data),
            2 => msix.read_pending(offset, &mut data),
            _ => msix.set_control(u16::try_from(dice.below(4)).unwrap() << 14),
        }
    }
    msix.set_control(0);
    let calls = log.take();
    for vector in 0..usize::from(VECTORS) {
        let last = calls
            .iter()
            .rev()
            .find(|call| matches!(call, Call::Connect(v, _) | Call::Disconnect(v) if *v == vector));
        assert!(matches!(last, Some(Call::Disconnect(_))));
    }
}
