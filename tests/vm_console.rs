//! The serial port with the real driver of a stock kernel: what is typed and what is printed arrive intact, and the
//! keys of the operator's terminal work. Each byte costs an emulated host close to a millisecond when it is busy, so the
//! megabytes are sent by tiny guests (`console.rs`), and here goes what shows the driver's rules: many times its
//! buffers, and those of the terminal layer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod terminal;
    pub mod tiny;
}
use sha2::{Digest, Sha256};
use std::{process::Stdio, thread, time::Duration};
use support::{
    run::{Run, pipe},
    terminal::Terminal,
    tiny::pattern,
};

/// The default of a bundle is hvc0, which `vm_hvc.rs` tests.
const SERIAL: &[&str] = &["--console", "serial"];

fn sha256(bytes: &[u8]) -> String {
    let digits: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// The lines `1`, `2` and so on.
fn numbers(last: u32) -> String {
    (1..=last).map(|n| n.to_string() + "\n").collect()
}

/// More than a terminal and the VMM's buffer hold together, so that the driver has to wait for room.
#[test]
fn a_reader_that_comes_late_gets_all_lines() {
    let last = 16_000; // 83 KB
    let mut terminal = Terminal::new();
    let running = Run::guest(SERIAL, &format!("echo; seq 1 {last}; exit 7"))
        .stdout(terminal.client())
        .start();
    let mut all = terminal.read();
    thread::sleep(Duration::from_secs(10)); // all is full by then
    let end = format!("\n{last}\r\n");
    // The kernel's last words may follow.
    while !all.windows(end.len()).any(|piece| piece == end.as_bytes()) {
        all.extend(terminal.read());
    }
    running.end().code(7);
    let text = String::from_utf8_lossy(&all).replace("\r\n", "\n");
    assert!(
        text.contains(&format!("\n{}", numbers(last))),
        "{} bytes, not all as printed",
        all.len()
    );
}

#[test]
fn a_console_that_nobody_reads_costs_neither_the_guest_nor_its_exit_code() {
    let (reader, writer) = pipe();
    drop(reader);
    Run::guest(SERIAL, "seq 1 2000; exit 7").stdout(writer).end().code(7);
}

#[test]
fn typed_lines_arrive_one_by_one() {
    let script = "stty -echo; while read line; do echo \"got <$line>\"; [ \"$line\" = bye ] && exit 5; done";
    let mut running = Run::guest(SERIAL, script).stdin(Stdio::piped()).start();
    running.type_in(b"before the boot\n");
    running.wait_for("got <before the boot>\n");
    for line in ["one", "two words", "t\u{e4}st \"quoted\" $HOME", "bye"] {
        running.type_in(format!("{line}\n").as_bytes());
        running.wait_for(&format!("got <{line}>\n"));
    }
    running.end().code(5);
}

/// Far more than the buffers of the port and of the guest's terminal hold: the rest waits in the pipe.
#[test]
fn pasted_bytes_arrive_intact() {
    let pasted = pattern(1 << 8); // 16 KiB
    let script = format!("stty raw -echo; echo go; head -c {} | sha256sum", pasted.len());
    let mut running = Run::guest(SERIAL, &script).stdin(Stdio::piped()).start();
    running.wait_for("go\n");
    running.type_in(&pasted);
    running.end().code(0).shows(&sha256(&pasted));
}

#[test]
fn a_guest_runs_without_any_input() {
    let (reader, writer) = pipe();
    drop(writer);
    Run::guest(SERIAL, "echo no input; exit 9")
        .stdin(reader)
        .end()
        .code(9)
        .shows("no input\n");
}

#[test]
fn keys_of_the_operators_terminal_press_the_power_button_and_stop() {
    for (keys, code) in [(&b"\x01p"[..], 128 + 15), (b"\x01x", 0)] {
        let mut terminal = Terminal::new();
        let before = terminal.modes();
        let running = Run::guest(SERIAL, "echo up; exec sleep 1000")
            .stdin(terminal.client())
            .start();
        running.wait_for("up\n");
        terminal.type_in(keys);
        running.end().code(code);
        assert_eq!(terminal.modes(), before);
    }
}
