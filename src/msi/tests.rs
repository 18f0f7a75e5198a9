use super::*;

const LINES: &[Line] = &[
    Line {
        gsi: 0,
        chip: 2,
        pin: 0,
    },
    Line {
        gsi: 0,
        chip: 0,
        pin: 0,
    },
    Line {
        gsi: 23,
        chip: 2,
        pin: 23,
    },
];

fn routes(limit: u32) -> Routes {
    Routes {
        lines: LINES,
        first: 24,
        limit,
        messages: BTreeMap::new(),
    }
}

fn message(data: u32) -> Message {
    Message {
        address: 0x1_fee0_2000,
        data,
    }
}

#[test]
fn messages_take_the_lowest_free_gsi_and_their_number_is_limited() {
    let mut routes = routes(2);
    for expected in [24, 25] {
        let gsi = routes.free().unwrap();
        assert_eq!(gsi, expected);
        routes.messages.insert(gsi, message(gsi));
    }
    assert!(matches!(routes.free(), Err(MsiError::Full(2))));
    routes.messages.remove(&24);
    assert_eq!(routes.free().unwrap(), 24);
}

#[test]
fn the_table_keeps_the_lines_beside_the_messages() {
    let mut routes = routes(100);
    assert_eq!(routes.entries().len(), LINES.len());
    routes.messages.insert(24, message(0x4021));
    let table = KvmIrqRouting::from_entries(&routes.entries()).unwrap();
    let entries = table.as_slice();
    let kinds: Vec<_> = entries.iter().map(|entry| (entry.gsi, entry.type_)).collect();
    let (chip, msi) = (KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI);
    assert_eq!(kinds, [(0, chip), (0, chip), (23, chip), (24, msi)]);
    let bytes = |entry: &kvm_irq_routing_entry| format!("{entry:?}");
    assert_ne!(bytes(&entries[0]), "");
}

#[test]
fn a_message_to_the_frame_names_its_interrupt() {
    let register = 0x4000_0040;
    let at = |address, data| behind(Message { address, data }, register, 32, 8).ok();
    assert_eq!((at(register, 64), at(register, 71)), (Some(32), Some(39)));
    for (address, data) in [
        (register, 72),
        (register, 63),
        (register, 0),
        (register, u32::MAX),
        (register + 4, 64),
    ] {
        assert_eq!(at(address, data), None, "{address:#x} {data}");
    }
}
