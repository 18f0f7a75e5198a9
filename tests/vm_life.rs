//! The ways in which a stock kernel ends or starts again: reboot, power-off, power button, panic, a failing PID 1.
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
use coracle::{
    builder::build,
    config::{
        self,
        spec::{OnReboot, SerialInput, SerialOutput, SerialSpec, VmSpec},
    },
    event::{Event, Outcome},
    vm::Vm,
};
use coracle_arch::{Arch, Host};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};
use support::{
    run::{LIMIT, Run, bundle},
    tiny::{Folder, Program, kernel, pattern},
};

/// A VM of this process whose guest runs a command, with its console in a file.
fn spec(folder: &Path, command: &str) -> (VmSpec, PathBuf) {
    let bundle = bundle();
    let bundle = bundle.display();
    let config = format!(
        r#"{{"boot-source": {{"kernel_bundle": "{bundle}", "command": {command}}},
            "machine-config": {{"vcpu_count": 1, "mem_size_mib": 128}}}}"#
    );
    let mut spec = config::parse(&config).unwrap();
    let console = folder.join("console");
    spec.serial = SerialSpec {
        input: SerialInput::None,
        output: SerialOutput::File(console.clone()),
    };
    (spec, console)
}

/// Reads events until one is `wanted`, within the limit.
#[track_caller]
fn wait_for(events: &Receiver<Event>, console: &Path, wanted: impl Fn(&Event) -> bool) {
    let until = Instant::now() + LIMIT;
    loop {
        let event = events.recv_timeout(until.saturating_duration_since(Instant::now()));
        match event {
            Ok(event) if wanted(&event) => return,
            Ok(Event::Ended(_)) | Err(_) => panic!(
                "{event:?} came too early; the console:\n{}",
                String::from_utf8_lossy(&fs::read(console).unwrap())
            ),
            Ok(_) => {}
        }
    }
}

#[track_caller]
fn end(vm: &Vm) -> Outcome {
    vm.wait_timeout(LIMIT).expect("the VM ends within the limit")
}

#[test]
fn five_reboots_happen_in_one_process() {
    let running = Run::guest(&[], "echo up again; reboot -f; sleep 1000").start();
    running.wait_for_times("up again\n", 6);
    running.signal(Signal::TERM);
    running.end().code(128 + 15);
}

#[test]
fn the_owner_hears_of_a_reboot_and_may_have_it_end_the_vm() {
    let folder = Folder::new("reboot");
    let (mut spec, console) = spec(&folder, r#"["reboot", "-f"]"#);
    let vm = build(spec.clone()).unwrap();
    let events = vm.events();
    vm.start().unwrap();
    wait_for(&events, &console, |event| matches!(event, Event::Ready(_)));
    wait_for(&events, &console, |event| *event == Event::Rebooting(1));
    wait_for(&events, &console, |event| matches!(event, Event::Ready(_)));
    assert_eq!(vm.stop(), Outcome::Stopped);

    spec.on_reboot = OnReboot::Exit;
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    assert_eq!(end(&vm), Outcome::Reset);

    Run::guest(&["--on-reboot", "exit"], "reboot -f; sleep 1000")
        .end()
        .code(0);
}

#[test]
fn a_guest_that_powers_off_by_itself_ends_the_process_with_0() {
    let ended = Run::guest(&[], "echo soon gone; poweroff -f; sleep 1000").end().code(0);
    ended.shows("soon gone\n");
}

#[test]
fn the_power_button_ends_the_command_and_the_guest() {
    let folder = Folder::new("button");
    let (spec, console) = spec(&folder, r#"["sh", "-c", "echo running; exec sleep 1000"]"#);
    let vm = build(spec).unwrap();
    let events = vm.events();
    vm.start().unwrap();
    wait_for(&events, &console, |event| matches!(event, Event::Ready(_)));
    // A button pressed before the command is there would find nothing to end, and kill what it finds 2 s later.
    let until = Instant::now() + LIMIT;
    while !fs::read_to_string(&console).unwrap().contains("running\n") {
        assert!(Instant::now() < until, "the command does not run");
        thread::sleep(Duration::from_millis(10));
    }
    vm.power_button().unwrap();
    wait_for(&events, &console, |event| *event == Event::PowerButton);
    assert_eq!(end(&vm), Outcome::Exited(128 + 15), "sleep ends by SIGTERM");
    let text = fs::read_to_string(console).unwrap();
    assert!(text.contains("the power button was pressed"), "{text}");
}

#[test]
fn a_kernel_panic_has_its_own_code_and_is_named() {
    // There is neither this program nor a root file system.
    let cmdline = format!("{} rdinit=/nonexistent", Host::DEFAULT_CMDLINE);
    Run::guest(&["--cmdline", &cmdline], "true")
        .end()
        .code(158)
        .says("coracle: the guest's kernel panicked: VFS: Unable to mount root fs");
    Run::guest(&[], "echo c > /proc/sysrq-trigger; sleep 1000")
        .end()
        .code(158)
        .says("coracle: the guest's kernel panicked: sysrq triggered crash");
}

#[test]
fn a_triple_fault_has_its_own_code() {
    if Host::NAME != "x86_64" {
        return; // an Arm CPU has no such end: it faults for ever
    }
    let folder = Folder::new("triple");
    Run::new(["vm", "run", "--memory", "32M", "--cmdline", "", "--kernel"])
        .arg(kernel(&folder, Program::Crash))
        .end()
        .code(159)
        .says("triple fault");
}

#[test]
fn a_failing_first_program_has_its_own_code_and_says_why() {
    let cmdline = format!("{} coracle.role=nobody", Host::DEFAULT_CMDLINE);
    Run::guest(&["--cmdline", &cmdline], "true")
        .end()
        .code(160)
        .says("coracle: PID 1 of the guest failed: `coracle.role=nobody` is no role");
}

/// The VMM loads whatever it is given as an initrd; what becomes of it is the kernel's affair, and is told.
#[test]
fn a_truncated_or_foreign_initrd_ends_in_a_panic_that_is_told() {
    let folder = Folder::new("initrds");
    let whole = fs::read(bundle().join("initramfs")).unwrap();
    let initrd = folder.join("initrd");
    for bytes in [&whole[..200], &pattern(1 << 10)] {
        fs::write(&initrd, bytes).unwrap();
        Run::new(["vm", "run", "--memory", "128M", "--kernel"])
            .arg(bundle().join("kernel"))
            .arg("--initrd")
            .arg(&initrd)
            .end()
            .code(158)
            .says("coracle: the guest's kernel panicked: VFS: Unable to mount root fs");
    }
}
