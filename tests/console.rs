//! The operator's end of the serial port, with guests of a few instructions: megabytes each way, readers that are slow,
//! late or gone, every kind of input, and the terminal as it was on every way out.
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
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};
use support::{
    run::{Run, pipe},
    terminal::Terminal,
    tiny::{Folder, Program, kernel, pattern, sum},
};

/// So many bytes; an eighth of them in an emulated host, where each is a VM exit of some 70 µs.
fn mebibytes(count: u32) -> u32 {
    let emulated = env::var_os("CORACLE_EMULATED_HOST").is_some();
    if emulated { count << 17 } else { count << 20 }
}

fn run(folder: &Path, program: Program) -> Run {
    Run::new(["vm", "run", "--memory", "32M", "--cmdline", "", "--kernel"]).arg(kernel(folder, program))
}

/// A real serial driver is put to the same test with less, because each of its bytes costs microseconds.
#[test]
fn ten_mebibytes_of_output_arrive_intact() {
    let folder = Folder::new("output");
    let blocks = mebibytes(10) / 64;
    let ended = run(&folder, Program::Pattern(blocks)).end().code(0);
    assert!(
        ended.console == pattern(blocks),
        "{} bytes, not all as written",
        ended.console.len()
    );
}

#[test]
fn a_slow_reader_gets_all_bytes() {
    let folder = Folder::new("slow");
    let (mut reader, writer) = pipe();
    let blocks = 8 << 10;
    let running = run(&folder, Program::Pattern(blocks)).stdout(writer).start();
    let (mut all, mut chunk) = (Vec::new(), [0; 4000]);
    loop {
        let n = reader.read(&mut chunk).unwrap();
        all.extend_from_slice(&chunk[..n]);
        if n == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    running.end().code(0);
    assert!(all == pattern(blocks), "{} bytes, not all as written", all.len());
}

#[test]
fn output_that_nobody_reads_any_more_holds_up_nothing() {
    let folder = Folder::new("epipe");
    let (mut reader, writer) = pipe();
    let running = run(&folder, Program::Pattern(4 << 10)).stdout(writer).start();
    reader.read_exact(&mut [0; 64]).unwrap();
    drop(reader);
    running.end().code(0).says("guest output is thrown away");
}

#[test]
fn standard_streams_may_be_closed() {
    let folder = Folder::new("closed");
    let shell = |script: &str| {
        Run::program("sh")
            .arg("-c")
            .arg(script)
            .arg(env!("CARGO_BIN_EXE_coracle"))
            .arg(kernel(&folder, Program::Pattern(64)))
            .end()
    };
    let ended = shell("exec \"$0\" vm run --host kvm --memory 32M --cmdline '' --kernel \"$1\" <&-").code(0);
    assert!(ended.console == pattern(64));
    shell("exec \"$0\" vm run --host kvm --memory 32M --cmdline '' --kernel \"$1\" <&- >&-").code(0);
    shell("exec \"$0\" vm run --host kvm --memory 32M --cmdline '' --kernel \"$1\" >&- 2>&-").code(0);
}

/// Many times what any buffer on the way holds; what the guest has not read yet waits in the pipe.
#[test]
fn a_mebibyte_of_input_arrives_intact() {
    let folder = Folder::new("input");
    let bytes = mebibytes(1);
    let pasted: Vec<u8> = pattern(bytes / 64);
    let mut running = run(&folder, Program::Sum(bytes)).stdin(Stdio::piped()).start();
    running.type_in(&pasted);
    assert_eq!(running.end().code(0).console, sum(&pasted));
}

#[test]
fn input_comes_from_files_and_fifos_and_may_end_early() {
    let folder = Folder::new("sources");
    let text = b"as it stands in the file\x01x\x00\xff";
    let (file, fifo) = (folder.join("text"), folder.join("fifo"));
    fs::write(&file, text).unwrap();
    let ended = run(&folder, Program::Sum(28)).stdin(File::open(&file).unwrap()).end();
    assert_eq!(ended.code(0).console, sum(text));

    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut writer = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let running = run(&folder, Program::Sum(28)).stdin(File::open(&fifo).unwrap()).start();
    writer.write_all(&text[..5]).unwrap();
    thread::sleep(Duration::from_millis(20));
    writer.write_all(&text[5..]).unwrap();
    assert_eq!(running.end().code(0).console, sum(text));

    // The default of these tests is /dev/null.
    assert!(run(&folder, Program::Pattern(64)).end().code(0).console == pattern(64));
    let (reader, writer) = pipe();
    drop(writer);
    let ended = run(&folder, Program::Pattern(64)).stdin(reader).end().code(0);
    assert!(ended.console == pattern(64));
}

#[test]
fn a_pseudo_terminal_serves_clients_that_come_late_and_leave() {
    let folder = Folder::new("pty");
    let running = run(&folder, Program::Chatter).arg("--serial").arg("pty").start();
    let name = pty_name(&running.wait_for_error("\n"));
    thread::sleep(Duration::from_millis(100)); // the buffer fills up and the oldest bytes go
    for _ in 0..2 {
        let mut seen = vec![0; 1000];
        client(&name).read_exact(&mut seen).unwrap();
        assert!(seen.iter().all(|b| *b == b'.'), "{}", String::from_utf8_lossy(&seen));
    }
    running.signal(Signal::TERM);
    assert!(running.end().code(128 + 15).console.is_empty());

    let running = run(&folder, Program::Sum(5)).arg("--serial").arg("pty").start();
    let name = pty_name(&running.wait_for_error("\n"));
    client(&name).write_all(b"hello").unwrap();
    running.end().code(0); // five bytes end it, fewer do not
}

/// A client of a pseudo-terminal. It must not become the terminal of this process, which may lead a session: the end of
/// the VM would hang it up.
fn client(name: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(name)
        .unwrap()
}

/// The path in the line that names the pseudo-terminal.
fn pty_name(line: &str) -> PathBuf {
    line.trim().rsplit_once(' ').unwrap().1.into()
}

#[test]
fn the_terminal_is_restored_on_every_way_out() {
    let folder = Folder::new("termios");
    for (leave, code) in [
        (Leave::By(Signal::TERM), 128 + 15),
        (Leave::By(Signal::INT), 128 + 2),
        (Leave::By(Signal::HUP), 156),
        (Leave::Typing(b"\x01x"), 0),
        (Leave::Itself, 0),
    ] {
        let mut terminal = Terminal::new();
        let before = terminal.modes();
        let program = if let Leave::Itself = leave {
            Program::Sum(1)
        } else {
            Program::Chatter
        };
        let running = run(&folder, program).stdin(terminal.client()).start();
        terminal.wait_until_raw();
        match leave {
            Leave::By(signal) => running.signal(signal),
            Leave::Typing(keys) => terminal.type_in(keys),
            Leave::Itself => terminal.type_in(b"."),
        }
        running.end().code(code);
        assert_eq!(terminal.modes(), before);
    }
}

enum Leave {
    By(Signal),
    Typing(&'static [u8]),
    Itself,
}

/// Signals that come while the machine is built: the terminal is raw by then, and nobody waits for the guest yet.
#[test]
fn the_terminal_is_restored_whenever_the_signal_comes() {
    let folder = Folder::new("early");
    for i in 0..20 {
        let terminal = Terminal::new();
        let before = terminal.modes();
        let running = run(&folder, Program::Spin).stdin(terminal.client()).start();
        thread::sleep(Duration::from_millis(2 * i));
        running.signal(Signal::TERM);
        let status = running.end().status;
        let by_default = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        assert!(status.code() == Some(128 + 15) || by_default, "{status:?}");
        assert_eq!(terminal.modes(), before, "after {} ms", 2 * i);
    }
}
