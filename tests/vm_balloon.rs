//! The balloon with the driver of a stock kernel: the memory of this process, which is the VMM, shrinks and grows with it.
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
        spec::{SerialInput, SerialOutput, SerialSpec},
    },
    event::Outcome,
    vm::Vm,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};
use support::{
    run::{LIMIT, bundle},
    tiny::Folder,
};

const MIB: u64 = 1 << 20;
/// What the guest fills and frees.
const FILLED: u64 = 80 * MIB;
/// What must come and go with that at least.
const SEEN: u64 = 60 * MIB;

/// The memory of the process is measured, so one VM at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A guest that obeys lines of input.
struct Guest {
    vm: Vm,
    console: PathBuf,
    input: File,
    _folder: Folder,
}

impl Guest {
    fn start(name: &str, balloon: &str) -> Self {
        let folder = Folder::new(name);
        let (bundle, console, fifo) = (bundle(), folder.join("console"), folder.join("input"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let script = "while read line; do eval $line; echo done-$line; done";
        let config = format!(
            r#"{{"boot-source": {{"kernel_bundle": "{}", "command": ["sh", "-c", {script:?}]}},
                "machine-config": {{"vcpu_count": 1, "mem_size_mib": 256}},
                "balloon": {{"amount_mib": 0, "deflate_on_oom": true, {balloon}}}}}"#,
            bundle.display()
        );
        let mut spec = config::parse(&config).unwrap();
        spec.serial = SerialSpec {
            input: SerialInput::File(fifo.clone()),
            output: SerialOutput::File(console.clone()),
        };
        // Both ends, so that neither this open nor the VMM's waits for the other.
        let input = OpenOptions::new().read(true).write(true).open(fifo).unwrap();
        let vm = build(spec).unwrap();
        vm.start().unwrap();
        Self {
            vm,
            console,
            input,
            _folder: folder,
        }
    }

    /// Has the guest run a line, and waits until it has.
    fn run(&mut self, line: &str) {
        let done = format!("done-{line}");
        let count = || {
            String::from_utf8_lossy(&fs::read(&self.console).unwrap())
                .matches(&done)
                .count()
        };
        let before = count();
        writeln!(&self.input, "{line}").unwrap();
        wait(&format!("{line:?} on the console"), || count() > before);
    }

    fn fill(&mut self) {
        self.run(&format!(
            "dd if=/dev/zero of=/tmp/f bs=1M count={} 2>/dev/null",
            FILLED / MIB
        ));
    }

    fn free(&mut self) {
        self.run("rm /tmp/f");
    }

    fn end(mut self) {
        writeln!(self.input, "exit 4").unwrap();
        let outcome = self.vm.wait_timeout(LIMIT).expect("the VM ends");
        assert!(matches!(outcome, Outcome::Exited(4)), "{outcome:?}");
    }
}

#[track_caller]
fn wait(what: &str, come: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !come() {
        assert!(Instant::now() < until, "this never came: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn inflating_and_hints_lower_what_the_vmm_has_and_statistics_come() {
    let _one = ONE.lock().unwrap();
    let mut guest = Guest::start("balloon", r#""stats_polling_interval_s": 1, "free_page_hinting": true"#);
    let balloon = guest.vm.balloon().unwrap().clone();
    guest.fill();
    guest.free();
    let full = resident();

    balloon.set_target(120 * MIB);
    wait("a full balloon", || balloon.actual() == 120 * MIB);
    wait("less memory", || resident() + SEEN < full);

    balloon.set_target(0);
    wait("an empty balloon", || balloon.actual() == 0);
    let low = resident();
    guest.fill();
    assert!(resident() > low + SEEN, "{} after {low}", resident());
    guest.free();

    let full = resident();
    assert!(balloon.start_hinting());
    wait("the end of the hints", || !balloon.is_hinting());
    wait("less memory", || resident() + SEEN < full);

    wait("statistics", || balloon.statistics().is_some());
    let (statistics, _) = balloon.statistics().unwrap();
    let (total, free) = (statistics.total_memory.unwrap(), statistics.free_memory.unwrap());
    assert!(
        (200 * MIB..=256 * MIB).contains(&total) && free < total,
        "{statistics:?}"
    );
    guest.end();
}

#[test]
fn the_guest_reports_what_it_frees() {
    let _one = ONE.lock().unwrap();
    let mut guest = Guest::start("reporting", r#""free_page_reporting": true"#);
    guest.fill();
    let full = resident();
    guest.free();
    wait("less memory", || resident() + SEEN < full);
    guest.end();
}
