//! Configs that are accepted, and the machines they describe.
use super::super::{check, parse, raw, read, spec::*};
use log::LevelFilter;
use std::{path::PathBuf, time::Duration};

/// What a config with nothing but a kernel asks for.
fn plain(kernel: &str) -> VmSpec {
    VmSpec {
        boot: BootSpec {
            source: BootSource::Files {
                kernel: kernel.into(),
                initrd: None,
            },
            cmdline: None,
            root: None,
            command: Vec::new(),
            load: KernelLoad::Auto,
            protocol: Protocol::Auto,
        },
        vcpus: 1,
        memory: MemorySpec {
            bytes: 128 << 20,
            huge_pages: HugePages::Transparent,
        },
        serial: SerialSpec::default(),
        virtio_transport: VirtioTransport::default(),
        console: ConsoleSpec::default(),
        devices: Vec::new(),
        on_reboot: OnReboot::Restart,
        logger: None,
    }
}

fn with(part: &str) -> VmSpec {
    let json = format!(r#"{{"boot-source": {{"kernel_image_path": "vmlinux"}}, {part}}}"#);
    parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn a_kernel_is_enough() {
    let spec = parse(r#"{"boot-source": {"kernel_image_path": "vmlinux"}}"#).unwrap();
    assert_eq!(spec, plain("vmlinux"));
    assert_eq!(check(&raw::VmConfig::from_kernel("vmlinux")).unwrap(), spec);
}

#[test]
fn the_hello_example_boots_the_bundle_and_runs_a_command() {
    let spec = parse(include_str!("../../../resources/vm/hello.json")).unwrap();
    let mut expected = plain("");
    expected.boot.source = BootSource::Bundle("target/bundle".into());
    expected.boot.command = vec!["/bin/uname".to_owned(), "-a".to_owned()];
    expected.console.virtio = true;
    expected.memory.bytes = 256 << 20;
    assert_eq!(spec, expected);
}

#[test]
fn the_linux_example_says_all_that_is_usual() {
    let spec = parse(include_str!("../../../resources/vm/linux.json")).unwrap();
    let mut expected = plain("vmlinux");
    expected.boot.source = BootSource::Files {
        kernel: "vmlinux".into(),
        initrd: Some("initrd.cpio".into()),
    };
    expected.boot.cmdline = Some("console=ttyS0 reboot=k panic=1 quiet".to_owned());
    expected.vcpus = 2;
    expected.memory.bytes = 512 << 20;
    expected.on_reboot = OnReboot::Exit;
    expected.logger = Some(LoggerSpec {
        path: None,
        level: LevelFilter::Warn,
        show_level: true,
        show_origin: false,
        module: None,
    });
    assert_eq!(spec, expected);
}

#[test]
fn a_config_as_firecracker_echoes_it_is_accepted() {
    let spec = parse(
        r#"{
          "balloon": null, "drives": [], "cpu-config": null, "logger": null, "metrics": null, "mmds-config": null,
          "network-interfaces": [], "vsock": null, "entropy": null, "pmem": [], "memory-hotplug": null,
          "boot-source": {"kernel_image_path": "/srv/vmlinux-6.1", "boot_args": "reboot=k panic=1", "initrd_path": null},
          "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false,
                             "huge_pages": "None"}
        }"#,
    )
    .unwrap();
    let mut expected = plain("/srv/vmlinux-6.1");
    expected.boot.cmdline = Some("reboot=k panic=1".to_owned());
    expected.vcpus = 2;
    expected.memory = MemorySpec {
        bytes: 1 << 30,
        huge_pages: HugePages::None,
    };
    assert_eq!(spec, expected);
}

#[test]
fn a_vsock_device_is_as_asked() {
    let devices = |cid: u32| {
        with(&format!(
            r#""vsock": {{"guest_cid": {cid}, "uds_path": "v.sock", "vsock_id": "old"}}"#
        ))
        .devices
    };
    for guest_cid in [3, u32::MAX - 1] {
        let uds_path = "v.sock".into();
        assert_eq!(
            devices(guest_cid),
            [DeviceSpec::Vsock(VsockSpec { guest_cid, uds_path })]
        );
    }
}

#[test]
fn limits_themselves_are_allowed() {
    let machine = |vcpus: u64, mib: u64| {
        let spec = with(&format!(
            r#""machine-config": {{"vcpu_count": {vcpus}, "mem_size_mib": {mib}}}"#
        ));
        (spec.vcpus, spec.memory.bytes)
    };
    assert_eq!(machine(1, 32), (1, 32 << 20));
    assert_eq!(machine(8192, 64 << 20), (8192, 64 << 40));
}

#[test]
fn the_transport_is_as_asked() {
    let transport = |word: &str| {
        with(&format!(
            r#""machine-config": {{"vcpu_count": 1, "mem_size_mib": 64, "virtio_transport": {word}}}"#
        ))
        .virtio_transport
    };
    assert_eq!(transport("null"), VirtioTransport::Pci);
    assert_eq!(transport(r#""Mmio""#), VirtioTransport::Mmio);
    assert_eq!(transport(r#""Pci""#), VirtioTransport::Pci);
    let without = |args: &str| {
        let boot = format!(r#"{{"boot-source": {{"kernel_image_path": "k", "boot_args": "{args}"}}}}"#);
        parse(&boot).unwrap().virtio_transport
    };
    assert_eq!(without("quiet pci=off"), VirtioTransport::Mmio);
    assert_eq!(without("quiet pci=noearly"), VirtioTransport::Pci);
}

#[test]
fn huge_pages_are_as_asked() {
    let huge = |word: &str| {
        let machine = format!(r#""machine-config": {{"vcpu_count": 1, "mem_size_mib": 64, "huge_pages": {word}}}"#);
        with(&machine).memory.huge_pages
    };
    assert_eq!(huge("null"), HugePages::Transparent);
    assert_eq!(huge(r#""None""#), HugePages::None);
    assert_eq!(huge(r#""Transparent""#), HugePages::Transparent);
    assert_eq!(huge(r#""2M""#), HugePages::Hugetlb2M);
}

#[test]
fn the_kernel_is_loaded_and_entered_as_asked() {
    let boot = |part: &str| {
        let json = format!(r#"{{"boot-source": {{"kernel_image_path": "k", {part}}}}}"#);
        let boot = parse(&json).unwrap().boot;
        (boot.load, boot.protocol)
    };
    assert_eq!(
        boot(r#""kernel_load": "auto", "protocol": "auto""#),
        (KernelLoad::Auto, Protocol::Auto)
    );
    assert_eq!(
        boot(r#""kernel_load": "copy", "protocol": "linux64""#),
        (KernelLoad::Copy, Protocol::Linux64)
    );
    assert_eq!(
        boot(r#""kernel_load": "map", "protocol": "pvh""#),
        (KernelLoad::Map, Protocol::Pvh)
    );
}

#[test]
fn an_empty_command_line_is_not_the_default_one() {
    let spec = parse(r#"{"boot-source": {"kernel_image_path": "k", "boot_args": ""}}"#).unwrap();
    assert_eq!(spec.boot.cmdline.as_deref(), Some(""));
}

#[test]
fn arguments_of_the_command_may_hold_anything_but_nul() {
    let json = r#"{"boot-source": {"kernel_bundle": "b", "command": ["sh", "-c", "", "printf 'ä\n' | wc"]}}"#;
    assert_eq!(parse(json).unwrap().boot.command, ["sh", "-c", "", "printf 'ä\n' | wc"]);
}

#[test]
fn serial_leads_where_it_is_told() {
    let serial = |part: &str| {
        let serial = with(&format!(r#""serial": {{{part}}}"#)).serial;
        (serial.output, serial.input)
    };
    let file = |path: &str| SerialOutput::File(PathBuf::from(path));
    assert_eq!(serial(""), (SerialOutput::Stdout, SerialInput::Stdin));
    assert_eq!(
        serial(r#""output": "stdout", "input": "stdin""#),
        (SerialOutput::Stdout, SerialInput::Stdin)
    );
    assert_eq!(
        serial(r#""output": "none", "input": "none""#),
        (SerialOutput::None, SerialInput::None)
    );
    assert_eq!(serial(r#""output": {"file": "o"}"#), (file("o"), SerialInput::Stdin));
    assert_eq!(serial(r#""serial_out_path": "o""#), (file("o"), SerialInput::Stdin));
    assert_eq!(
        serial(r#""input": {"file": "i"}"#),
        (SerialOutput::Stdout, SerialInput::File("i".into()))
    );
    // The terminal is not read as well.
    assert_eq!(serial(r#""output": "pty""#), (SerialOutput::Pty, SerialInput::None));
}

#[test]
fn a_reboot_restarts_unless_told_otherwise() {
    assert_eq!(with(r#""on-reboot": null"#).on_reboot, OnReboot::Restart);
    assert_eq!(with(r#""on-reboot": "restart""#).on_reboot, OnReboot::Restart);
    assert_eq!(with(r#""on-reboot": "exit""#).on_reboot, OnReboot::Exit);
}

#[test]
fn log_levels_are_known_in_any_case() {
    let level = |word: &str| {
        with(&format!(r#""logger": {{"level": "{word}"}}"#))
            .logger
            .unwrap()
            .level
    };
    for (words, expected) in [
        (["Off", "OFF"], LevelFilter::Off),
        (["Error", "error"], LevelFilter::Error),
        (["Warning", "WARN"], LevelFilter::Warn),
        (["Info", "INFO"], LevelFilter::Info),
        (["Debug", "debug"], LevelFilter::Debug),
        (["Trace", "TRACE"], LevelFilter::Trace),
    ] {
        assert_eq!(words.map(level), [expected; 2]);
    }
    assert_eq!(with(r#""logger": {}"#).logger.unwrap().level, LevelFilter::Info);
}

#[test]
fn a_logger_says_all_it_can() {
    let logger = with(
        r#""logger": {"log_path": "l", "level": "Trace", "show_level": true, "show_log_origin": true, "module": "m"}"#,
    );
    let expected = LoggerSpec {
        path: Some("l".into()),
        level: LevelFilter::Trace,
        show_level: true,
        show_origin: true,
        module: Some("m".to_owned()),
    };
    assert_eq!(logger.logger, Some(expected));
}

#[test]
fn network_cards_are_connected_as_told() {
    let cards = with(
        r#""network-interfaces": [
            {"iface_id": "a", "host_dev_name": "tap0", "guest_mac": "06:00:AC:10:00:02", "mtu": 68, "queue_pairs": 2,
             "tx_rate_limiter": {"ops": {"size": 5, "refill_time": 1000}}},
            {"iface_id": "b", "passt": {"tcp": ["80", "::1/22:2222"], "udp": ["53:5353"]}, "offloads": false},
            {"iface_id": "c", "socket": {"path": "s"}}]"#,
    )
    .devices;
    let card = |id: &str, backend| NetSpec {
        id: id.into(),
        backend,
        mac: None,
        mtu: None,
        queue_pairs: 1,
        offloads: true,
        receive_limits: LimitsSpec::default(),
        transmit_limits: LimitsSpec::default(),
    };
    let forward = |address: Option<&str>, host, guest| Forward {
        address: address.map(|text| text.parse().unwrap()),
        host,
        guest,
    };
    let expected = [
        NetSpec {
            mac: Some([6, 0, 0xac, 0x10, 0, 2]),
            mtu: Some(68),
            queue_pairs: 2,
            transmit_limits: LimitsSpec {
                bandwidth: None,
                ops: Some(BucketSpec {
                    size: 5,
                    one_time_burst: 0,
                    refill_time: Duration::from_secs(1),
                }),
            },
            ..card("a", NetBackend::Tap("tap0".into()))
        },
        NetSpec {
            offloads: false,
            ..card(
                "b",
                NetBackend::Passt {
                    tcp: vec![forward(None, 80, 80), forward(Some("::1"), 22, 2222)],
                    udp: vec![forward(None, 53, 5353)],
                },
            )
        },
        card(
            "c",
            NetBackend::Socket {
                path: "s".into(),
                listen: false,
            },
        ),
    ];
    assert_eq!(cards, expected.map(DeviceSpec::Net));
}

#[test]
fn all_keys_together_break_no_rule_of_their_own() {
    // Only what coracle cannot do yet remains, so every rule before was kept.
    let mut config = read(super::EVERYTHING).unwrap();
    let message = check(&config).unwrap_err().to_string();
    assert!(message.ends_with("yet. Remove the key."), "{message}");

    config.machine_config.gdb_socket_path = None;
    config.cpu_config = None;
    config.mmds_config = None;
    config.metrics = None;
    config.serial.as_mut().unwrap().rate_limiter = None;
    config.drives.clear();
    config.pmem.clear();
    config.network_interfaces.clear();
    config.entropy = None;
    config.balloon = None;
    config.memory_hotplug = None;
    assert_eq!(check(&config).unwrap().vcpus, 4);
}

#[test]
fn a_drive_says_how_it_is_served_and_the_root_device_is_the_first() {
    let spec = with(
        r#""drives": [
          {"drive_id": "data", "is_root_device": false, "path_on_host": "a", "further_paths": ["b", "c"], "stripe_kib": 64,
           "overlay": "o", "cache_type": "Writeback", "num_queues": 4, "direct_io": true},
          {"drive_id": "rootfs", "is_root_device": true, "path_on_host": "r", "is_read_only": true, "io_engine": "Async",
           "rate_limiter": {"bandwidth": {"size": 100, "one_time_burst": 7, "refill_time": 50}}}
        ]"#,
    );
    let rootfs = BlockSpec {
        id: "rootfs".to_owned(),
        paths: vec!["r".into()],
        stripe: None,
        overlay: None,
        read_only: true,
        direct: false,
        writeback: false,
        uring: true,
        queues: 1,
        discard: false,
        limits: LimitsSpec {
            bandwidth: Some(BucketSpec {
                size: 100,
                one_time_burst: 7,
                refill_time: Duration::from_millis(50),
            }),
            ops: None,
        },
    };
    let data = BlockSpec {
        id: "data".to_owned(),
        paths: ["a", "b", "c"].map(PathBuf::from).to_vec(),
        stripe: Some(65_536),
        overlay: Some("o".into()),
        read_only: false,
        direct: true,
        writeback: true,
        uring: false,
        queues: 4,
        discard: false,
        limits: LimitsSpec::default(),
    };
    assert_eq!(spec.devices, [rootfs, data].map(DeviceSpec::Block));
    assert_eq!(spec.boot.root.as_deref(), Some("root=/dev/vda ro"));
}

#[test]
fn the_root_device_is_found_as_firecracker_says_it() {
    let root = |more: &str| {
        let json = format!(r#""drives": [{{"drive_id": "a", "path_on_host": "f", {more}}}]"#);
        with(&json).boot.root
    };
    assert_eq!(root(r#""is_root_device": false"#), None);
    assert_eq!(root(r#""is_root_device": true"#).unwrap(), "root=/dev/vda rw");
    let partition = r#""is_root_device": true, "is_read_only": true, "partuuid": "0eaa91a0-01""#;
    assert_eq!(root(partition).unwrap(), "root=PARTUUID=0eaa91a0-01 ro");
}

#[test]
fn a_config_survives_being_written_and_read() {
    for json in [super::EVERYTHING, include_str!("../../../resources/vm/hello.json")] {
        let config = read(json).unwrap();
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}

#[test]
fn the_console_is_what_the_guest_will_look_for() {
    let virtio = |part: &str| parse(&format!("{{{part}}}")).unwrap().console.virtio;
    let kernel = |args: &str| format!(r#""boot-source": {{"kernel_image_path": "k", "boot_args": "{args}"}}"#);
    assert!(!virtio(r#""boot-source": {"kernel_image_path": "k"}"#));
    assert!(virtio(r#""boot-source": {"kernel_bundle": "b"}"#));
    assert!(!virtio(
        r#""boot-source": {"kernel_bundle": "b", "boot_args": "console=ttyS0"}"#
    ));
    assert!(virtio(&kernel("console=ttyS0 console=hvc0")));
    assert!(virtio(&kernel("console=hvc0,115200 quiet")));
    for args in ["console=ttyS0", "console=hvc1", "hvc0", "quiet -- console=hvc0"] {
        assert!(!virtio(&kernel(args)), "{args}");
    }
    assert!(!virtio(&format!(
        r#"{}, "console": {{"device": "serial"}}"#,
        kernel("console=hvc0")
    )));
    assert!(virtio(&format!(
        r#"{}, "console": {{"device": "virtio"}}"#,
        kernel("console=ttyS0")
    )));
}

#[test]
fn named_ports_are_a_device() {
    let spec = with(r#""console": {"ports": [{"name": "a", "to": "pty"}, {"name": "b", "to": {"socket": "s"}}]}"#);
    let port = |name: &str, to| PortSpec {
        name: name.to_owned(),
        to,
    };
    let ports = vec![port("a", PortTarget::Pty), port("b", PortTarget::Socket("s".into()))];
    assert_eq!(spec.devices, [DeviceSpec::Ports(PortsSpec { ports })]);
}

#[test]
fn a_balloon_is_a_device() {
    let spec = with(
        r#""balloon": {"amount_mib": 8, "deflate_on_oom": true, "stats_polling_interval_s": 5, "free_page_reporting": true},
           "machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "2M"}"#,
    );
    let balloon = BalloonSpec {
        bytes: 8 << 20,
        deflate_on_oom: true,
        statistics: Duration::from_secs(5),
        hinting: false,
        reporting: true,
        pool_pages: true,
    };
    assert_eq!(spec.devices, [DeviceSpec::Balloon(balloon)]);
}
