//! A VM as a value: started, paused, reset, stopped and dropped, with guests of a few instructions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod tiny;
}
use coracle::{
    builder::build,
    config::spec::{OnReboot, SerialOutput},
    event::{Event, Outcome},
    vm::Vm,
};
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use support::tiny::{Folder, Program, spec};

const LIMIT: Duration = Duration::from_secs(60);

fn vm(folder: &Path, program: Program) -> Vm {
    build(spec(folder, program, SerialOutput::None)).unwrap()
}

/// Threads, descriptors and mappings of this process.
fn counts() -> [usize; 3] {
    let entries = |folder| fs::read_dir(folder).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    [entries("/proc/self/task"), entries("/proc/self/fd"), maps]
}

/// The counts once they stand still: a thread that has been joined is still listed until the kernel has reaped it.
fn settled_counts() -> [usize; 3] {
    let (mut last, mut same) = (counts(), 0);
    while same < 10 {
        thread::sleep(Duration::from_millis(20));
        let now = counts();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn a_guest_that_powers_off_ends_the_vm() {
    let folder = Folder::new("poweroff");
    let vm = vm(&folder, Program::PowerOff);
    let events = vm.events();
    vm.start().unwrap();
    assert_eq!(vm.wait_timeout(LIMIT), Some(Outcome::PoweredOff));
    let events: Vec<_> = events.iter().collect();
    assert_eq!(events, [Event::Running, Event::Ended(Outcome::PoweredOff)]);
}

#[test]
fn a_reset_restarts_the_guest_in_the_same_process_or_ends_it_as_asked() {
    let folder = Folder::new("reset");
    let vm = vm(&folder, Program::Reset);
    let events = vm.events();
    vm.start().unwrap();
    let resets: Vec<_> = events
        .iter()
        .filter(|e| matches!(e, Event::Rebooting(_)))
        .take(5)
        .collect();
    assert_eq!(resets.last(), Some(&Event::Rebooting(5)));
    assert_eq!(vm.stop(), Outcome::Stopped);

    let mut spec = spec(&folder, Program::Reset, SerialOutput::None);
    spec.on_reboot = OnReboot::Exit;
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    assert_eq!(vm.wait_timeout(LIMIT), Some(Outcome::Reset));
}

#[test]
fn five_thousand_pauses_and_resumes_lose_no_kick() {
    let folder = Folder::new("pause");
    for program in [Program::Spin, Program::Chatter] {
        let vm = vm(&folder, program);
        vm.start().unwrap();
        for i in 0..2500 {
            vm.pause().unwrap();
            if i % 2 == 0 {
                thread::yield_now();
            }
            vm.resume().unwrap();
        }
        assert_eq!(vm.stop(), Outcome::Stopped);
    }
}

#[test]
fn a_paused_guest_stands_still() {
    let folder = Folder::new("still");
    let log = folder.join("log");
    let vm = build(spec(&folder, Program::Chatter, SerialOutput::File(log.clone()))).unwrap();
    let length = || fs::metadata(&log).unwrap().len();
    vm.start().unwrap();
    let until = Instant::now() + LIMIT;
    while length() == 0 {
        assert!(Instant::now() < until, "the guest wrote nothing");
        thread::sleep(Duration::from_millis(1));
    }
    vm.pause().unwrap();
    thread::sleep(Duration::from_millis(50)); // what was written before the pause drains
    let still = length();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(length(), still, "the guest ran while it was paused");
    vm.resume().unwrap();
    while length() == still {
        assert!(Instant::now() < until, "the guest wrote nothing after the pause");
        thread::sleep(Duration::from_millis(1));
    }
    vm.stop();
    assert!(fs::read(&log).unwrap().iter().all(|b| *b == b'.'));
}

#[test]
fn refusals_name_the_operation_and_the_state() {
    let folder = Folder::new("refusals");
    let vm = vm(&folder, Program::Spin);
    let refusal = |r: Result<(), coracle::vm::VmError>| r.unwrap_err().to_string();
    assert_eq!(refusal(vm.pause()), "cannot pause a VM that is created but not started");
    vm.start().unwrap();
    assert_eq!(refusal(vm.start()), "cannot start a VM that is running");
    vm.pause().unwrap();
    assert_eq!(refusal(vm.pause()), "cannot pause a VM that is paused");
    assert_eq!(
        refusal(vm.power_button()),
        "cannot press the power button of a VM that is paused"
    );
    vm.stop();
    assert_eq!(refusal(vm.resume()), "cannot resume a VM that is stopped");
}

#[test]
fn sixty_four_vcpus_start_pause_and_end() {
    let folder = Folder::new("many");
    let mut spec = spec(&folder, Program::Spin, SerialOutput::None);
    spec.vcpus = 64;
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
    assert!(names.filter(|name| name.starts_with("vcpu")).count() >= 64);
    for _ in 0..5 {
        vm.pause().unwrap();
        vm.resume().unwrap();
    }
    assert_eq!(vm.stop(), Outcome::Stopped);

    fs::remove_file(folder.join("tiny")).unwrap();
    let mut spec = support::tiny::spec(&folder, Program::PowerOff, SerialOutput::None);
    spec.vcpus = 64;
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    assert_eq!(vm.wait_timeout(LIMIT), Some(Outcome::PoweredOff));
}

#[test]
fn more_vcpus_than_kvm_has_are_refused_with_its_limit() {
    let folder = Folder::new("too-many");
    let mut spec = spec(&folder, Program::Spin, SerialOutput::None);
    spec.vcpus = 100_000;
    let text = build(spec).unwrap_err().to_string();
    assert!(text.contains("100000") && text.contains("vcpu_count"), "{text}");
}

#[test]
fn several_vms_run_side_by_side() {
    let folder = Folder::new("several");
    let spinning: Vec<_> = (0..4).map(|_| vm(&folder, Program::Spin)).collect();
    for vm in &spinning {
        vm.start().unwrap();
    }
    let short = vm(&folder, Program::PowerOff);
    short.start().unwrap();
    assert_eq!(short.wait_timeout(LIMIT), Some(Outcome::PoweredOff));
    assert!(spinning.iter().all(|vm| vm.wait_timeout(Duration::ZERO).is_none()));
}

/// Not a test of its own in the harness's threads: they would change the counts. Runs this binary again for one test.
#[test]
fn two_hundred_vms_leave_nothing_behind() {
    let me = std::env::current_exe().unwrap();
    let status = std::process::Command::new(me)
        .args(["--exact", "child::two_hundred_vms", "--test-threads=1"])
        .env("CORACLE_TEST_CHILD", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

mod child {
    use super::*;

    #[test]
    fn two_hundred_vms() {
        if std::env::var_os("CORACLE_TEST_CHILD").is_none() {
            return; // alone in its process only, see above
        }
        let folder = Folder::new("leak");
        let round = |i: usize| {
            let vm = vm(&folder, [Program::Spin, Program::PowerOff, Program::Reset][i % 3]);
            vm.start().unwrap();
            match i % 3 {
                1 => drop(vm.wait_timeout(LIMIT).unwrap()),
                _ => thread::sleep(Duration::from_millis(1)),
            }
        };
        (0..3).for_each(round); // what the process allocates once
        let before = settled_counts();
        (0..200).for_each(round);
        assert_eq!(settled_counts(), before, "threads, descriptors, mappings");
    }
}
