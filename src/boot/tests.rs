use super::*;

fn spec(cmdline: Option<&str>, command: &[&str]) -> BootSpec {
    BootSpec {
        source: BootSource::Bundle("bundle".into()),
        cmdline: cmdline.map(str::to_owned),
        root: None,
        command: command.iter().map(ToString::to_string).collect(),
        load: KernelLoad::Auto,
        protocol: Protocol::Auto,
    }
}

#[test]
fn the_command_goes_before_what_is_for_init() {
    let cases = [
        ("quiet", "quiet coracle.exec=/bin/echo,a%20b"),
        ("quiet -- one two", "quiet coracle.exec=/bin/echo,a%20b -- one two"),
        (
            "a=b--c --d -- x -- y",
            "a=b--c --d coracle.exec=/bin/echo,a%20b -- x -- y",
        ),
        ("-- x", "coracle.exec=/bin/echo,a%20b -- x"),
        ("", "coracle.exec=/bin/echo,a%20b"),
        (" quiet  --", "quiet  coracle.exec=/bin/echo,a%20b --"),
    ];
    for (given, whole) in cases {
        assert_eq!(
            compose_cmdline(&spec(Some(given), &["/bin/echo", "a b"]), ConsoleSpec::default()).unwrap(),
            whole,
            "{given:?}"
        );
    }
    assert_eq!(
        compose_cmdline(&spec(None, &[]), ConsoleSpec::default()).unwrap(),
        Host::DEFAULT_CMDLINE
    );
    assert_eq!(
        compose_cmdline(&spec(Some("quiet -- one"), &[]), ConsoleSpec::default()).unwrap(),
        "quiet -- one"
    );
}

#[test]
fn the_root_device_is_added_before_what_is_for_init() {
    let with_root = |given, command: &[&str]| {
        let root = Some("root=/dev/vda ro".to_owned());
        let spec = BootSpec {
            root,
            ..spec(Some(given), command)
        };
        compose_cmdline(&spec, ConsoleSpec::default()).unwrap()
    };
    assert_eq!(with_root("quiet", &[]), "quiet root=/dev/vda ro");
    assert_eq!(with_root("quiet -- one", &[]), "quiet root=/dev/vda ro -- one");
    assert_eq!(with_root("-- one", &["a"]), "root=/dev/vda ro coracle.exec=a -- one");
}

#[test]
fn a_command_line_may_be_as_long_as_the_kernel_allows_and_no_longer() {
    let longest = "x".repeat(Host::MAX_CMDLINE);
    assert!(longest.len() >= 2047, "2048 bytes with the NUL");
    assert!(compose_cmdline(&spec(Some(&longest), &[]), ConsoleSpec::default()).is_ok());
    let error = compose_cmdline(&spec(Some(&format!("{longest}x")), &[]), ConsoleSpec::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("{} bytes", Host::MAX_CMDLINE + 1)) && error.contains("boot_args"),
        "{error}"
    );
}

#[test]
fn a_virtio_console_is_the_last_on_the_default_command_line() {
    let virtio = ConsoleSpec { virtio: true };
    let bundle = spec(None, &[]);
    let line = compose_cmdline(&bundle, virtio).unwrap();
    assert!(
        line.starts_with("console=hvc0 ") && line.ends_with(Host::EARLY_CONSOLE),
        "{line}"
    );
    assert!(!line.contains("ttyS0"), "{line}");
    let plain = BootSpec {
        source: BootSource::Files {
            kernel: "vmlinux".into(),
            initrd: None,
        },
        ..bundle
    };
    let line = compose_cmdline(&plain, virtio).unwrap();
    assert!(line.starts_with("console=ttyS0 console=hvc0 "), "{line}");
    let given = spec(Some("console=hvc0"), &[]);
    assert_eq!(compose_cmdline(&given, virtio).unwrap(), "console=hvc0");
}
