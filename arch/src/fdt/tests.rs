use super::layout::{DEVICES, PCI, PLATFORM, RAM_BASE, memory_ranges};
use super::*;
use std::collections::BTreeMap;

/// A tree as read back: path of a node to its properties.
type Tree = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn string(bytes: &[u8], at: usize) -> String {
    let len = bytes[at..].iter().position(|&byte| byte == 0).unwrap();
    String::from_utf8(bytes[at..at + len].to_vec()).unwrap()
}

/// Reads a flattened tree (Devicetree Specification v0.4, chapter 5) and the order of its nodes.
fn read(blob: &[u8]) -> (Tree, Vec<String>) {
    assert_eq!(be32(blob, 0), 0xd00d_feed, "magic");
    assert_eq!(be32(blob, 4) as usize, blob.len(), "totalsize");
    let (mut at, strings) = (be32(blob, 8) as usize, be32(blob, 12) as usize);
    let (mut tree, mut order, mut path) = (Tree::new(), vec![], vec![]);
    loop {
        let token = be32(blob, at);
        at += 4;
        match token {
            1 => {
                let name = string(blob, at);
                at = (at + name.len() + 4) & !3;
                path.push(name);
                let here = if path.len() == 1 { "/".into() } else { path.join("/") };
                assert!(tree.insert(here.clone(), BTreeMap::new()).is_none(), "{here} twice");
                order.push(here);
            }
            2 => {
                path.pop();
            }
            3 => {
                let (len, name) = (
                    be32(blob, at) as usize,
                    string(blob, strings + be32(blob, at + 4) as usize),
                );
                let here = if path.len() == 1 { "/".into() } else { path.join("/") };
                let value = blob[at + 8..at + 8 + len].to_vec();
                assert!(
                    tree.get_mut(&here).unwrap().insert(name.clone(), value).is_none(),
                    "{here}:{name} twice"
                );
                at = (at + 8 + len + 3) & !3;
            }
            9 => return (tree, order),
            other => panic!("token {other} at {at}"),
        }
    }
}

/// The nodes of a tree and their properties, one per line, in a form that a person can check.
fn text(tree: &Tree, node: &str) -> Vec<String> {
    tree.get(node)
        .unwrap_or_else(|| panic!("no {node} among {:?}", tree.keys()))
        .iter()
        .map(|(name, value)| {
            let words: Vec<_> = value.split(|&byte| byte == 0).collect();
            let printable = value.ends_with(&[0])
                && words[..words.len() - 1]
                    .iter()
                    .all(|word| word.len() > 1 && word.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '));
            if value.is_empty() {
                name.clone()
            } else if printable {
                let words: Vec<_> = words[..words.len() - 1]
                    .iter()
                    .map(|word| String::from_utf8_lossy(word))
                    .collect();
                format!("{name} = {}", words.join(" | "))
            } else {
                let cells: Vec<_> = value.chunks(4).map(|cell| format!("{:x}", be32(cell, 0))).collect();
                format!("{name} = <{}>", cells.join(" "))
            }
        })
        .collect()
}

const SEED: [u8; 64] = {
    let mut seed = [0; 64];
    let mut at = 0;
    while at < 64 {
        seed[at] = at as u8 + 1;
        at += 1;
    }
    seed
};

fn machine<'a>(cpus: &'a [u64], gic: &'a Gic, ram: &'a [Range<u64>], parts: &'a [Part]) -> Machine<'a> {
    let initrd = Some(0x8fb4_0000..0x8fdf_7800);
    Machine {
        cpus,
        gic,
        ram,
        parts,
        cmdline: "console=ttyS0 quiet",
        initrd,
        seed: SEED,
    }
}

/// Nodes of a machine with two CPUs, 256 MiB and all of [`PLATFORM`], with their properties in alphabetical order.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "/",
        &[
            "#address-cells = <2>",
            "#size-cells = <2>",
            "compatible = linux,dummy-virt",
            "interrupt-parent = <1>",
        ],
    ),
    (
        "/aliases",
        &["serial0 = /serial@40002000", "serial1 = /serial@40003000"],
    ),
    (
        "/memory@80000000",
        &["device_type = memory", "reg = <0 80000000 0 10000000>"],
    ),
    ("/cpus", &["#address-cells = <2>", "#size-cells = <0>"]),
    (
        "/cpus/cpu@1",
        &[
            "compatible = arm,armv8",
            "device_type = cpu",
            "enable-method = psci",
            "reg = <0 1>",
        ],
    ),
    ("/psci", &["compatible = arm,psci-1.0 | arm,psci-0.2", "method = hvc"]),
    (
        "/interrupt-controller@3fff0000",
        &[
            "#interrupt-cells = <3>",
            "compatible = arm,gic-v3",
            "interrupt-controller",
            "phandle = <1>",
            "reg = <0 3fff0000 0 10000 0 3ffb0000 0 40000>",
        ],
    ),
    (
        "/timer",
        &[
            "always-on",
            "compatible = arm,armv8-timer",
            "interrupts = <1 d 4 1 e 4 1 b 4 1 a 4>",
        ],
    ),
    (
        "/apb-pclk",
        &[
            "#clock-cells = <0>",
            "clock-frequency = <16e3600>",
            "clock-output-names = clk24mhz",
            "compatible = fixed-clock",
            "phandle = <2>",
        ],
    ),
    (
        "/rtc@40001000",
        &[
            "arm,primecell-periphid = <141031>",
            "clock-names = apb_pclk",
            "clocks = <2>",
            "compatible = arm,pl031 | arm,primecell",
            "reg = <0 40001000 0 1000>",
        ],
    ),
    (
        "/serial@40002000",
        &[
            "clock-frequency = <1c2000>",
            "compatible = ns16550a",
            "interrupts = <0 0 1>",
            "reg = <0 40002000 0 1000>",
        ],
    ),
    (
        "/serial@40003000",
        &[
            "clock-frequency = <1c2000>",
            "compatible = ns16550a",
            "interrupts = <0 1 1>",
            "reg = <0 40003000 0 1000>",
        ],
    ),
    (
        "/gpio@40004000",
        &[
            "#gpio-cells = <2>",
            "#interrupt-cells = <2>",
            "arm,primecell-periphid = <141061>",
            "clock-names = apb_pclk",
            "clocks = <2>",
            "compatible = arm,pl061 | arm,primecell",
            "gpio-controller",
            "interrupt-controller",
            "interrupts = <0 2 1>",
            "phandle = <3>",
            "reg = <0 40004000 0 1000>",
        ],
    ),
    ("/gpio-keys", &["compatible = gpio-keys"]),
    (
        "/gpio-keys/power",
        &["gpios = <3 3 0>", "label = Power button", "linux,code = <74>"],
    ),
];

#[test]
fn a_machine_with_all_its_devices_reads_back_node_by_node() {
    let ram = memory_ranges(256 << 20);
    let (tree, order) = read(&build(&machine(&[0x8000_0000, 0x8000_0001], &Gic::v3(2), &ram, PLATFORM)).unwrap());
    assert_eq!(
        order,
        [
            "/",
            "/chosen",
            "/aliases",
            "/memory@80000000",
            "/cpus",
            "/cpus/cpu@0",
            "/cpus/cpu@1",
            "/psci",
            "/interrupt-controller@3fff0000",
            "/timer",
            "/apb-pclk",
            "/rtc@40001000",
            "/serial@40002000",
            "/serial@40003000",
            "/gpio@40004000",
            "/gpio-keys",
            "/gpio-keys/power",
        ]
    );
    for (node, properties) in EXPECTED {
        assert_eq!(text(&tree, node), *properties, "{node}");
    }
}

#[test]
fn the_boot_parameters_are_in_chosen_and_the_seed_is_used_once() {
    let ram = memory_ranges(256 << 20);
    let (tree, _) = read(&build(&machine(&[0], &Gic::v3(1), &ram, PLATFORM)).unwrap());
    let chosen = &tree["/chosen"];
    assert_eq!(chosen["bootargs"], b"console=ttyS0 quiet\0");
    assert_eq!(chosen["stdout-path"], b"/serial@40002000\0");
    assert_eq!(chosen["linux,initrd-start"], 0x8fb4_0000_u64.to_be_bytes());
    assert_eq!(chosen["linux,initrd-end"], 0x8fdf_7800_u64.to_be_bytes());
    assert_eq!(
        [chosen["rng-seed"].clone(), chosen["kaslr-seed"].clone()].concat(),
        SEED
    );
    assert_eq!(chosen["kaslr-seed"].len(), 8);
}

#[test]
fn a_bare_machine_names_no_device_and_no_initrd() {
    let ram = memory_ranges(256 << 20);
    let gic = Gic::v3(1);
    let bare = Machine {
        initrd: None,
        ..machine(&[0], &gic, &ram, &[])
    };
    let (tree, order) = read(&build(&bare).unwrap());
    assert_eq!(order.last().unwrap(), "/timer");
    assert!(tree["/aliases"].is_empty());
    assert_eq!(
        tree["/chosen"].keys().collect::<Vec<_>>(),
        ["bootargs", "kaslr-seed", "rng-seed"]
    );
}

#[test]
fn devices_are_named_in_the_order_of_their_addresses() {
    let ram = memory_ranges(256 << 20);
    let mut parts = PLATFORM.to_vec();
    parts.reverse();
    parts[0].base = DEVICES.start;
    let (_, order) = read(&build(&machine(&[0], &Gic::v3(1), &ram, &parts)).unwrap());
    let devices: Vec<_> = order.iter().filter(|node| node.contains("@4")).collect();
    assert_eq!(
        devices,
        [
            "/rtc@40001000",
            "/serial@40002000",
            "/serial@40003000",
            "/gpio@40010000"
        ]
    );
}

#[test]
fn a_gicv2_has_its_own_windows_and_timer_interrupts_for_each_cpu() {
    let ram = memory_ranges(256 << 20);
    for (cpus, mask) in [(1, 0x104), (3, 0x704), (8, 0xff04)] {
        let cpus: Vec<u64> = (0..cpus).collect();
        let (tree, _) = read(&build(&machine(&cpus, &Gic::v2(), &ram, PLATFORM)).unwrap());
        let gic = text(&tree, "/interrupt-controller@3fff0000");
        assert!(gic.contains(&"compatible = arm,gic-400".into()));
        assert!(gic.contains(&"reg = <0 3fff0000 0 1000 0 3fff2000 0 2000>".into()));
        assert_eq!(be32(&tree["/timer"]["interrupts"], 8), mask);
    }
}

#[test]
fn every_cpu_of_512_is_named_by_its_affinity() {
    let ram = memory_ranges(64 << 30);
    // As KVM numbers them: 16 to a cluster.
    let cpus: Vec<u64> = (0..512)
        .map(|cpu| 0x8000_0000 | (cpu & 0xf) | (cpu >> 4) << 8)
        .collect();
    let (tree, order) = read(&build(&machine(&cpus, &Gic::v3(512), &ram, PLATFORM)).unwrap());
    assert_eq!(order.iter().filter(|node| node.starts_with("/cpus/cpu@")).count(), 512);
    assert_eq!(tree["/cpus/cpu@1f0f"]["reg"], 0x1f0f_u64.to_be_bytes());
    assert_eq!(tree["/memory@80000000"]["reg"][8..], (64_u64 << 30).to_be_bytes());
    // Affinity level 3 is in bits 39 to 32.
    let (tree, _) = read(&build(&machine(&[0x12_8034_5678], &Gic::v3(1), &ram, &[])).unwrap());
    assert_eq!(tree["/cpus/cpu@1200345678"]["reg"], 0x12_0034_5678_u64.to_be_bytes());
}

#[test]
fn what_a_tree_cannot_say_is_refused_with_the_remedy() {
    let ram = memory_ranges(256 << 20);
    let gic = Gic::v3(1);
    let base = machine(&[0], &gic, &ram, &[]);
    let refusal = |machine: Machine<'_>| build(&machine).unwrap_err().to_string();

    assert_eq!(
        refusal(Machine {
            cmdline: "a\0b",
            ..base.clone()
        }),
        "the kernel command line holds a NUL byte; remove it"
    );
    let long = "x".repeat(3 << 20);
    assert!(
        refusal(Machine {
            cmdline: &long,
            ..base.clone()
        })
        .contains("of 2097152")
    );
    let part = Part {
        kind: PartKind::Ged,
        space: Space::Mmio,
        base: RAM_BASE,
        size: 1,
        gsi: None,
    };
    let said = refusal(Machine {
        parts: &[part],
        ..base.clone()
    });
    assert_eq!(
        said,
        "a Ged in Mmio space cannot be described by a device tree; leave it out on aarch64"
    );
    let part = Part {
        kind: PartKind::Console,
        space: Space::Pio,
        ..part
    };
    assert!(
        refusal(Machine {
            parts: &[part],
            ..base.clone()
        })
        .starts_with("a Console in Pio space")
    );
    for gsi in [None, Some(988), Some(u32::MAX)] {
        let part = Part {
            space: Space::Mmio,
            gsi,
            ..part
        };
        assert!(
            refusal(Machine {
                parts: &[part],
                ..base.clone()
            })
            .contains("below 988"),
            "{gsi:?}"
        );
    }
}

#[test]
fn a_pci_bus_has_its_bridge_and_its_frame_for_messages() {
    let (gic, ram) = (Gic::v3(1), memory_ranges(256 << 20));
    let (tree, _) = read(&build(&machine(&[0], &gic, &ram, PCI)).unwrap());
    assert_eq!(
        text(&tree, "/pcie@20000000"),
        [
            "#address-cells = <3>",
            "#size-cells = <2>",
            "bus-range = <0 0>",
            "compatible = pci-host-ecam-generic",
            "device_type = pci",
            "dma-coherent",
            "linux,pci-domain = <0>",
            "msi-parent = <4>",
            "ranges = <2000000 0 10000000 0 10000000 0 10000000>",
            "reg = <0 20000000 0 100000>",
        ]
    );
    assert_eq!(
        text(&tree, "/interrupt-controller@3fff0000/v2m@40000000"),
        [
            "compatible = arm,gic-v2m-frame",
            "msi-controller",
            "phandle = <4>",
            "reg = <0 40000000 0 1000>",
        ]
    );
    let gic_node = text(&tree, "/interrupt-controller@3fff0000");
    assert!(gic_node.contains(&"ranges".into()) && gic_node.contains(&"#size-cells = <2>".into()));
}
