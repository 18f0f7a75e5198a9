use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1044,
    revision: 1,
    class: [0x10, 0x20, 0x30],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};
const MEMORY: Bar = Bar {
    space: Space::Memory,
    size: 0x4000,
};
const IO: Bar = Bar {
    space: Space::Io,
    size: 0x20,
};

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(&IDENTITY);
    space.add_bar(0, MEMORY).unwrap();
    space.add_bar(2, IO).unwrap();
    space
}

fn byte(space: &ConfigSpace, offset: u8) -> u8 {
    let mut data = [0];
    space.read(offset, &mut data);
    data[0]
}

#[test]
fn the_header_identifies_the_function() {
    let space = space();
    assert_eq!(space.double_word(0), 0x1044_1af4);
    assert_eq!(space.double_word(8), 0x1020_3001);
    assert_eq!(space.double_word(0x2c), 0x1100_1af4);
    assert_eq!((byte(&space, 0x0e), byte(&space, 0x3d)), (0, 0), "one function, no pin");
}

#[test]
fn what_is_read_only_stays_at_every_width() {
    let mut space = space();
    for offset in (0..=0xffu8).step_by(4) {
        for (shift, width) in [(0, 1), (1, 1), (2, 2), (0, 4)] {
            space.write(offset + shift, &[0x55; 4][..width]);
        }
    }
    assert_eq!(space.double_word(0), 0x1044_1af4);
    assert_eq!(space.word(6), 0, "no status");
    assert_eq!(byte(&space, 0x3c), 0x55, "the interrupt line is a scratch register");
    assert_eq!(byte(&space, 0x34), 0);
}

#[test]
fn a_bar_tells_its_size_and_keeps_its_address() {
    let mut space = space();
    for offset in [0x10, 0x14, 0x18, 0x1c] {
        space.write(offset, &[0xff; 4]);
    }
    assert_eq!(
        [0x10, 0x14, 0x18, 0x1c].map(|at| space.double_word(at)),
        [0xffff_c004, u32::MAX, 0xffff_ffe1, 0]
    );
    assert_eq!(space.range(0), None, "that leaves the address space");
    space.place(0, 0x12_8000_4000);
    space.place(2, 0x1020);
    assert_eq!(space.range(0), Some(0x12_8000_4000..0x12_8000_8000));
    assert_eq!(space.range(2), Some(0x1020..0x1040));
    assert_eq!((space.range(1), space.range(3), space.range(9)), (None, None, None));
    space.write(0x11, &[0xc1]);
    assert_eq!(space.range(0), Some(0x12_8000_c000..0x12_8001_0000), "by bytes too");
}

#[test]
fn the_command_register_turns_each_space_on_by_itself() {
    let mut space = space();
    assert!(!space.decodes(Space::Memory) && !space.decodes(Space::Io));
    space.write(4, &[2]);
    assert!(space.decodes(Space::Memory) && !space.decodes(Space::Io));
    space.write(4, &[1]);
    assert!(!space.decodes(Space::Memory) && space.decodes(Space::Io));
    space.write(4, &[0xff, 0xff]);
    assert_eq!(space.word(4), 0x407);
}

#[test]
fn impossible_bars_are_refused() {
    let mut space = space();
    for (index, bar) in [
        (0, IO),
        (1, IO),
        (1, MEMORY),
        (5, MEMORY),
        (6, IO),
        (3, Bar { size: 48, ..IO }),
        (3, Bar { size: 512, ..IO }),
        (3, Bar { size: 2, ..IO }),
        (4, Bar { size: 8, ..MEMORY }),
        (4, Bar { size: 0, ..MEMORY }),
    ] {
        let Bar { space: kind, size } = bar;
        assert_eq!(
            space.add_bar(index, bar),
            Err(ConfigError::Bar {
                index,
                space: kind,
                size
            })
        );
    }
    space.add_bar(3, IO).unwrap();
    space.add_bar(4, MEMORY).unwrap();
}

#[test]
fn capabilities_form_a_list_that_ends() {
    let mut space = space();
    let first = space.add_capability(0x09, &[1, 2, 3], &[]).unwrap();
    let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).unwrap();
    assert_eq!((first, second), (0x40, 0x48));
    assert_ne!(space.word(6) & 0x10, 0);
    assert_eq!(
        (byte(&space, 0x34), byte(&space, 0x41), byte(&space, 0x49)),
        (first, second, 0)
    );
    assert_eq!(space.double_word(0x40), 0x0201_4809);
    space.write(second, &[0xff; 4]);
    assert_eq!(space.double_word(second), 0xc000_0011);
    let rest = space.add_capability(9, &[0; 170], &[]).unwrap();
    assert_eq!(rest, 0x54);
    assert_eq!(
        space.add_capability(9, &[], &[]),
        Err(ConfigError::Capability { id: 9, size: 2 })
    );
}

#[test]
fn behind_the_end_there_are_ones() {
    let mut data = [0; 4];
    space().read(0xfe, &mut data);
    assert_eq!(data, [0, 0, 0xff, 0xff]);
}
