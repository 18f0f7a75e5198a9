//! The DSDT: the plugged devices, in AML.
use super::{SLEEP_TYPE_S5, pci, sdt};
use crate::platform::{Part, PartKind, Space};
use acpi_tables::{
    Aml,
    aml::{
        And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt,
        Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate,
        Store, ZERO,
    },
    sdt::Sdt,
};

/// What `Notify` tells a button: it was pressed.
const PRESSED: u8 = 0x80;

pub(super) fn table(parts: &[Part]) -> Sdt {
    let mut aml = Vec::new();
    if parts.iter().any(|part| part.kind == PartKind::AcpiPower) {
        Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut aml);
    }
    let mut virtio = 0;
    for part in parts {
        match part.kind {
            PartKind::VirtioMmio => {
                virtio_mmio(&mut aml, virtio, part);
                virtio += 1;
            }
            PartKind::Console => serial(&mut aml, "_SB_.COM1", 1, part),
            PartKind::AgentPort => serial(&mut aml, "_SB_.COM2", 2, part),
            PartKind::Ged => event_device(&mut aml, part),
            PartKind::PanicNotifier => panic_notifier(&mut aml, part),
            PartKind::PciConfig => pci::bridge(&mut aml, part, parts),
            // The FADT has it, or the PCI bridge, or Linux does not ask ACPI for it, or it is another architecture's.
            PartKind::AcpiPower
            | PartKind::I8042
            | PartKind::PciPorts
            | PartKind::PciMemory
            | PartKind::PciIo
            | PartKind::MessageFrame
            | PartKind::Rtc
            | PartKind::Gpio => {}
        }
    }
    let mut table = sdt(*b"DSDT", 2);
    table.append_slice(&aml);
    table
}

/// A 16550.
fn serial(aml: &mut Vec<u8>, path: &str, uid: u8, part: &Part) {
    let window = window(part);
    let interrupt = interrupt(part);
    Device::new(
        path.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &uid),
            &resources(window.as_ref(), interrupt.as_ref()),
        ],
    )
    .to_aml_bytes(aml);
}

/// The Generic Event Device (§5.6.9) and the power button that it presses. Reading its one register tells what happened
/// (bit 0: the button) and forgets it.
fn event_device(aml: &mut Vec<u8>, part: &Part) {
    let button: Path = "\\_SB_.PWRB".into();
    Device::new(
        "_SB_.PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
    .to_aml_bytes(aml);
    let space = match part.space {
        Space::Mmio => OpRegionSpace::SystemMemory,
        Space::Pio => OpRegionSpace::SystemIO,
    };
    let interrupt = interrupt(part);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &resources(None, interrupt.as_ref()),
            &OpRegion::new("EVRG".into(), space, &part.base, &ONE),
            &Field::new(
                "EVRG".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVST", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVST")),
                    &If::new(&And::new(&ZERO, &Local(0), &ONE), vec![&Notify::new(&button, &PRESSED)]),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A pvpanic register, by the name that Linux's driver knows.
fn panic_notifier(aml: &mut Vec<u8>, part: &Part) {
    let window = window(part);
    Device::new(
        "_SB_.PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &resources(window.as_ref(), None),
        ],
    )
    .to_aml_bytes(aml);
}

/// Adds a virtio-mmio device, which Linux knows as `LNRO0005`; `index` makes its name and its `_UID`.
pub(super) fn virtio_mmio(aml: &mut Vec<u8>, index: u8, part: &Part) {
    let window = window(part);
    let interrupt = interrupt(part);
    Device::new(
        format!("_SB_.VI{index:02X}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &ONE),
            &resources(window.as_ref(), interrupt.as_ref()),
        ],
    )
    .to_aml_bytes(aml);
}

/// `_CRS` with what there is. The template goes by value because it borrows what it lists.
fn resources(window: Option<&Window>, interrupt: Option<&Interrupt>) -> Resources {
    let mut children: Vec<&dyn Aml> = Vec::new();
    match window {
        Some(Window::Ports(ports)) => children.push(ports),
        Some(Window::Memory(memory)) => children.push(memory),
        None => {}
    }
    children.extend(interrupt.map(|interrupt| -> &dyn Aml { interrupt }));
    let mut bytes = Vec::new();
    Name::new("_CRS".into(), &ResourceTemplate::new(children)).to_aml_bytes(&mut bytes);
    Resources(bytes)
}

/// A finished piece of AML.
struct Resources(Vec<u8>);

impl Aml for Resources {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A window as a resource.
enum Window {
    Ports(IO),
    Memory(Memory32Fixed),
}

/// The window of `part`, if ACPI's 16-bit ports or 32-bit addresses can name it.
fn window(part: &Part) -> Option<Window> {
    match part.space {
        Space::Pio => {
            let base = u16::try_from(part.base).ok()?;
            Some(Window::Ports(IO::new(base, base, 1, u8::try_from(part.size).ok()?)))
        }
        Space::Mmio => {
            let (base, size) = (u32::try_from(part.base).ok()?, u32::try_from(part.size).ok()?);
            Some(Window::Memory(Memory32Fixed::new(true, base, size)))
        }
    }
}

/// The interrupt of `part`: edge-triggered, active high, as an irqfd without resampling signals it. Virtio devices may
/// have to share one.
fn interrupt(part: &Part) -> Option<Interrupt> {
    let shared = part.kind == PartKind::VirtioMmio;
    part.gsi.map(|gsi| Interrupt::new(true, true, false, shared, gsi))
}
