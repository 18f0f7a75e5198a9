//! What the command line says of bad input, before anything needs KVM: one message on standard error, nothing on
//! standard output, the exit code of its class.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tiny;
}
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use support::{
    run::{Ended, Run},
    tiny::{Folder, Program, foreign_kernel, kernel},
};

const BAD_CONFIG: i32 = 152;
const BAD_ARGUMENTS: i32 = 153;

/// Holds a process to silence on standard output and to a message that starts with our name; answers the message.
#[track_caller]
fn refusal(ended: Ended, code: i32) -> String {
    let ended = ended.code(code);
    assert_eq!(ended.text(), "", "standard output");
    ended.errors
}

/// The table of configs and messages that the parser is held to, each as the program sees and shows it.
#[test]
fn each_bad_config_has_one_message_and_the_code_of_its_class() {
    let folder = Folder::new("configs");
    let file = folder.join("vm.json");
    let mut lines = include_str!("../src/config/tests/bad.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    while let (Some(line), Some(message)) = (lines.next(), lines.next()) {
        let config = match line.strip_prefix("+ ") {
            Some(part) => format!(r#"{{"boot-source": {{"kernel_image_path": "vmlinux"}}, {part}}}"#),
            None => line.to_owned(),
        };
        fs::write(&file, &config).unwrap();
        for verb in ["run", "check"] {
            let errors = refusal(Run::new(["vm", verb]).arg(&file).end(), BAD_CONFIG);
            assert_eq!(
                errors,
                format!("coracle: {}\n", message.trim_start()),
                "{verb} {config}"
            );
        }
        count += 1;
    }
    assert!(count > 190, "only {count} configs were read");
}

#[test]
fn a_config_that_cannot_be_read_is_named() {
    let folder = Folder::new("unreadable");
    let binary = folder.join("binary");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    for path in [folder.join("absent.json"), folder.to_owned(), binary] {
        for verb in ["run", "check"] {
            let errors = refusal(Run::new(["vm", verb]).arg(&path).end(), BAD_CONFIG);
            assert!(errors.contains(path.to_str().unwrap()), "{errors}");
            assert_eq!(errors.lines().count(), 1, "{errors}");
        }
    }
}

#[test]
fn a_config_may_come_from_standard_input() {
    for (config, code) in [
        ("{}", BAD_CONFIG),
        (r#"{"boot-source": {"kernel_image_path": "a"}}"#, 0),
    ] {
        let mut running = Run::new(["vm", "check", "-"]).stdin(Stdio::piped()).start();
        running.type_in(config.as_bytes());
        running.close_input();
        running.end().code(code);
    }
}

fn boot(kernel: &Path, initrd: Option<&Path>) -> Ended {
    let mut run = Run::new(["vm", "run", "--memory", "32M", "--kernel"]).arg(kernel);
    if let Some(initrd) = initrd {
        run = run.arg("--initrd").arg(initrd);
    }
    run.end()
}

#[test]
fn a_file_that_is_no_kernel_is_refused_with_its_path() {
    let folder = Folder::new("kernels");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let good = fs::read(kernel(&folder, Program::PowerOff)).unwrap();
    let noise: Vec<u8> = support::tiny::pattern(1 << 10);
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gzip.extend(&noise);
    let bad: Vec<PathBuf> = vec![
        folder.join("absent"),
        folder.to_owned(),
        "/dev/null".into(),
        file("empty", b""),
        file("text", b"#!/bin/sh\nexit 0\n"),
        file("noise", &noise),
        file("bad gzip", &gzip),
        file("short", &good[..60]),
        foreign_kernel(&folder),
    ];
    for path in bad {
        let errors = refusal(boot(&path, None), BAD_CONFIG);
        let shown = format!("{path:?}");
        assert!(
            errors.starts_with("coracle: ") && errors.contains(&shown),
            "{path:?}: {errors}"
        );
        assert!(errors.contains("kernel_image_path"), "{path:?}: {errors}");
    }
}

#[test]
fn a_kernel_that_was_cut_off_is_refused_at_every_length() {
    let folder = Folder::new("cut");
    let path = kernel(&folder, Program::PowerOff);
    let good = fs::read(&path).unwrap();
    let code = good.iter().rposition(|&b| b != 0).unwrap();
    // The code at the end is all that an arm64 Image can lose unnoticed: its header does not tell the file's length.
    let lengths = [1, 3, 4, 16, 30, 63]
        .into_iter()
        .chain(support::tiny::is_elf(&good).then_some(code));
    for length in lengths {
        fs::write(&path, &good[..length]).unwrap();
        let errors = refusal(boot(&path, None), BAD_CONFIG);
        assert!(errors.contains("kernel_image_path"), "{length} bytes: {errors}");
    }
}

#[test]
fn an_initrd_that_is_no_file_or_too_big_is_refused_with_its_path() {
    let folder = Folder::new("initrds");
    let kernel = kernel(&folder, Program::PowerOff);
    let empty = folder.join("empty");
    fs::write(&empty, "").unwrap();
    for path in [folder.join("absent"), folder.to_owned(), empty] {
        let errors = refusal(boot(&kernel, Some(&path)), BAD_CONFIG);
        assert!(
            errors.contains(&format!("{path:?} (boot-source.initrd_path)")),
            "{errors}"
        );
    }
    let big = folder.join("big");
    fs::File::create(&big).unwrap().set_len(64 << 20).unwrap();
    let errors = refusal(boot(&kernel, Some(&big)), BAD_CONFIG);
    assert!(errors.contains("64 MiB") && errors.contains("mem_size_mib"), "{errors}");
}

#[test]
fn bad_arguments_have_a_code_of_their_own() {
    for arguments in [
        &["vm", "run"][..],
        &["vm", "run", "--memory", "lots", "--kernel", "k"],
        &["vm", "run", "--vcpus", "-1", "--kernel", "k"],
        &["vm", "run", "--kernel", "k", "--bundle", "b"],
        &["vm", "run", "--serial", "somewhere", "--kernel", "k"],
        &["vm", "run", "--on-reboot", "maybe", "--kernel", "k"],
        &["vm", "check"],
        &["vm", "fly"],
        &["no-such-verb"],
    ] {
        let errors = refusal(Run::new(arguments.iter().copied()).end(), BAD_ARGUMENTS);
        assert!(!errors.is_empty(), "{arguments:?}");
    }
}

#[test]
fn options_meet_the_rules_of_the_config() {
    for (option, value, key) in [
        ("--vcpus", "0", "machine-config.vcpu_count"),
        ("--memory", "0", "machine-config.mem_size_mib"),
        ("--memory", "31M", "machine-config.mem_size_mib"),
        ("--memory", "17000000000000M", "machine-config.mem_size_mib"),
        ("--vcpus", "100000", "machine-config.vcpu_count"),
    ] {
        let errors = refusal(
            Run::new(["vm", "run", "--kernel", "k", option, value]).end(),
            BAD_CONFIG,
        );
        assert!(
            errors.starts_with(&format!("coracle: {key} is")),
            "{option} {value}: {errors}"
        );
    }
}

#[test]
fn help_version_and_schema_go_to_standard_output() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["vm", "run", "--help"],
        &["vm", "schema"],
    ] {
        let ended = Run::new(arguments.iter().copied()).end().code(0);
        assert!(!ended.console.is_empty() && ended.errors.is_empty(), "{arguments:?}");
    }
    let schema = Run::new(["vm", "schema"]).end().console;
    let schema: serde_json::Value = serde_json::from_slice(&schema).unwrap();
    assert!(schema.get("properties").and_then(|p| p.get("boot-source")).is_some());
}
