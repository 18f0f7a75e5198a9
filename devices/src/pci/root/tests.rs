use super::*;
use crate::{
    bus::BusDevice,
    pci::{aperture::Aperture, config_space::Bar, ecam::Ecam},
    scribble::scribble,
};

const MEMORY: Range<u64> = 0xe000_0000..0xe010_0000;
const IO: Range<u64> = 0x1000..0x2000;
const BAR_SIZE: u64 = 0x4000;
/// Offsets of registers.
const COMMAND: u16 = 4;
const BAR_0: u16 = 0x10;
const BAR_2: u16 = 0x18;

/// Shows which BAR was accessed where, and keeps what it was told of its moves.
#[derive(Default)]
struct Probe {
    moves: Mutex<Vec<(u8, Option<u64>)>>,
    writes: Mutex<Vec<(u8, u64, usize)>>,
}

impl Probe {
    fn moves(&self) -> Vec<(u8, Option<u64>)> {
        std::mem::take(&mut self.moves.lock().unwrap())
    }
}

impl Function for Probe {
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(bar);
        data[0] = u8::try_from(offset & 0xff).unwrap();
    }
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Effect {
        self.writes.lock().unwrap().push((bar, offset, data.len()));
        Effect::None
    }
    fn moved(&self, bar: u8, decoded: Option<Range<u64>>) {
        self.moves.lock().unwrap().push((bar, decoded.map(|range| range.start)));
    }
}

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(&HOST_BRIDGE);
    let memory = Bar {
        space: Space::Memory,
        size: BAR_SIZE,
    };
    space.add_bar(0, memory).unwrap();
    let io = Bar {
        space: Space::Io,
        size: 0x40,
    };
    space.add_bar(2, io).unwrap();
    space
}

fn root() -> Root {
    Root::new(Apertures { memory: MEMORY, io: IO })
}

fn plug(root: &Root) -> (Arc<Probe>, u8) {
    let probe = Arc::new(Probe::default());
    let place = root.plug(space(), probe.clone()).unwrap();
    (probe, place.number())
}

fn config(root: &Root, function: u8, register: u16) -> u32 {
    let mut data = [0; 4];
    root.read_config(function, register, &mut data);
    u32::from_le_bytes(data)
}

fn set(root: &Root, function: u8, register: u16, value: u32) {
    assert_eq!(
        root.write_config(function, register, &value.to_le_bytes()),
        Effect::None
    );
}

fn memory(root: &Root, address: u64) -> u32 {
    let mut data = [0xff; 4];
    root.read(Space::Memory, address, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn absent_functions_read_as_ones_and_swallow_writes() {
    let root = root();
    let (_, here) = plug(&root);
    assert_eq!(config(&root, 0, 0), 0x0008_1b36);
    assert_ne!(config(&root, here, 0), u32::MAX);
    for function in (1..=255).filter(|function| *function != here) {
        assert_eq!(config(&root, function, 0), u32::MAX);
        set(&root, function, COMMAND, 7);
    }
    let mut long = [0; 8];
    root.read_config(1, 0, &mut long);
    assert_eq!(long, [0xff; 8]);
}

#[test]
fn a_register_can_be_read_in_every_width_and_beyond_the_end() {
    let root = root();
    let mut data = [0; 8];
    root.read_config(0, 0, &mut data);
    assert_eq!(data[..4], 0x0008_1b36u32.to_le_bytes());
    let mut odd = [0; 2];
    root.read_config(0, 3, &mut odd);
    assert_eq!(odd, [0, 0]);
    let mut extended = [0xaa; 4];
    root.read_config(0, 0x100, &mut extended);
    assert_eq!(extended, [0xff; 4], "no extended config space");
    root.read_config(0, 0xfff, &mut extended);
    let ecam = Ecam::new(Arc::new(root));
    ecam.read(0x8 << 12, &mut data);
    assert_eq!(data, [0xff; 8]);
    ecam.read(2, &mut odd);
    assert_eq!(odd, [8, 0]);
}

#[test]
fn more_functions_than_device_numbers_share_them() {
    let root = root();
    let places: Vec<u8> = (0..33).map(|_| plug(&root).1).collect();
    assert_eq!(
        (places[0], places[30], places[31], places[32]),
        (1 << 3, 31 << 3, 1 << 3 | 1, 2 << 3 | 1)
    );
    let header = |function| config(&root, function, 0xc) >> 16 & 0xff;
    assert_eq!([header(1 << 3), header(2 << 3), header(3 << 3)], [0x80, 0x80, 0]);
    let refused = (33..).find_map(|_| root.plug(space(), Arc::new(Probe::default())).err());
    assert!(matches!(refused, Some(PlugError::Room { .. })), "{refused:?}");
}

#[test]
fn a_full_bus_refuses() {
    let root = root();
    for _ in 0..Place::COUNT {
        root.plug(ConfigSpace::new(&HOST_BRIDGE), Arc::new(Probe::default()))
            .unwrap();
    }
    let refused = root.plug(ConfigSpace::new(&HOST_BRIDGE), Arc::new(Probe::default()));
    assert!(matches!(refused, Err(PlugError::Full)));
}

#[test]
fn bars_decode_once_the_guest_turns_them_on() {
    let root = root();
    let (probe, function) = plug(&root);
    let start = u64::from(config(&root, function, BAR_0) & !0xf);
    assert_eq!(start, MEMORY.start);
    assert_eq!(memory(&root, start), u32::MAX, "decoding is off");
    set(&root, function, COMMAND, 2);
    assert_eq!(memory(&root, start + 8), 0x0000_0008);
    assert_eq!(probe.moves(), [(0, Some(start))], "and ports stay off");
    assert_eq!(
        memory(&root, start + BAR_SIZE - 2),
        u32::MAX,
        "no access straddles the end"
    );
    set(&root, function, COMMAND, 3);
    let mut port = [0xff];
    root.read(Space::Io, IO.start, &mut port);
    assert_eq!((port, probe.moves()), ([0], vec![(2, Some(IO.start))]));
    let _ = root.write(Space::Io, IO.start + 4, &[1, 0]);
    assert_eq!(*probe.writes.lock().unwrap(), [(2, 4, 2)]);
    set(&root, function, COMMAND, 0);
    assert_eq!(probe.moves(), [(0, None), (2, None)]);
    assert_eq!(memory(&root, start), u32::MAX);
}

#[test]
fn a_bar_moves_with_decoding_off_and_on() {
    let root = root();
    let (probe, function) = plug(&root);
    let places = [0xe008_0000u32, 0xe009_0000];
    set(&root, function, BAR_0, places[0]);
    assert_eq!((memory(&root, places[0].into()), probe.moves()), (u32::MAX, vec![]));
    set(&root, function, COMMAND, 2);
    assert_eq!(memory(&root, places[0].into()), 0);
    set(&root, function, BAR_0, places[1]);
    assert_eq!(
        (memory(&root, places[0].into()), memory(&root, places[1].into())),
        (u32::MAX, 0)
    );
    assert_eq!(probe.moves(), places.map(|place| (0, Some(place.into()))));
}

#[test]
fn a_bad_address_is_rolled_back() {
    let root = root();
    let ((probe, function), (_, other)) = (plug(&root), plug(&root));
    set(&root, function, COMMAND, 2);
    set(&root, other, COMMAND, 2);
    probe.moves();
    let home = config(&root, function, BAR_0);
    let taken = config(&root, other, BAR_0);
    for bad in [taken, 0x1_0000, 0xfee0_0000, u32::try_from(MEMORY.end).unwrap(), 0] {
        set(&root, function, BAR_0, bad);
        assert_eq!(config(&root, function, BAR_0), home, "{bad:#x} with decoding on");
        set(&root, function, COMMAND, 0);
        set(&root, function, BAR_0, bad);
        assert_eq!(
            config(&root, function, BAR_0) & !0xf,
            bad & !0xf,
            "{bad:#x} with decoding off"
        );
        set(&root, function, COMMAND, 2);
        assert_eq!(config(&root, function, BAR_0), home, "{bad:#x} when decoding comes on");
        assert_eq!(memory(&root, u64::from(home & !0xf)), 0);
    }
    set(&root, function, BAR_0 + 4, 1);
    assert_eq!(config(&root, function, BAR_0 + 4), 0, "above 4 GiB");
    // A BAR whose home was taken meanwhile decodes nowhere.
    set(&root, function, COMMAND, 0);
    set(&root, other, BAR_0, home);
    set(&root, function, COMMAND, 2);
    assert_eq!(probe.moves().last(), Some(&(0, None)));
}

#[test]
fn sizes_can_be_asked_for_with_decoding_on() {
    let root = root();
    let (probe, function) = plug(&root);
    set(&root, function, COMMAND, 3);
    let home = [BAR_0, BAR_0 + 4, BAR_2].map(|register| config(&root, function, register));
    for (register, home, mask) in [
        (BAR_0, home[0], 0xffff_c004),
        (BAR_0 + 4, home[1], u32::MAX),
        (BAR_2, home[2], 0xffff_ffc1),
    ] {
        set(&root, function, register, u32::MAX);
        assert_eq!(config(&root, function, register), mask);
        set(&root, function, register, home);
        assert_eq!(config(&root, function, register), home);
    }
    assert_eq!(memory(&root, MEMORY.start), 0);
    assert_eq!(probe.moves().last(), Some(&(2, Some(IO.start))));
}

#[test]
fn the_host_bridge_cannot_be_changed() {
    let root = root();
    set(&root, 0, COMMAND, 7);
    assert_eq!(config(&root, 0, COMMAND), 0);
}

#[test]
fn survives_random_accesses() {
    let root = Arc::new(root());
    for _ in 0..3 {
        plug(&root);
    }
    // Functions of the first four device numbers, so that many accesses meet one.
    let ecam = Ecam::new(root.clone());
    scribble(&ecam, 4 << 15, 20_000, |_, effect| assert_eq!(effect, Effect::None));
    let windows = root.windows.read().unwrap();
    for (index, window) in windows.iter().enumerate() {
        let aperture = root.apertures.of(window.space);
        assert!(aperture.start <= window.range.start && window.range.end <= aperture.end);
        for other in windows
            .iter()
            .skip(index + 1)
            .filter(|other| other.space == window.space)
        {
            assert!(window.range.end <= other.range.start || other.range.end <= window.range.start);
        }
    }
    drop(windows);
    scribble(&Aperture::new(root.clone(), Space::Memory), 0x10_0000, 4000, |_, _| ());
    scribble(&Aperture::new(root, Space::Io), 0x1000, 4000, |_, _| ());
}
