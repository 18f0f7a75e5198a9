//! hvc0 with the driver of a stock kernel: it is the console of a bundle, both ways, knows the size of the terminal, and says
//! what went wrong; ports with names lead where the config says. One guest does most of it.
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
use coracle_arch::{Arch, Host};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Stdio,
};
use support::{
    run::Run,
    terminal::Terminal,
    tiny::{Folder, pattern},
};

/// Waits until the guest has the port called `$1`, and sets `$port`.
const FIND_PORT: &str = "find_port() { port=; while [ -z \"$port\" ]; do \
    for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name 2>/dev/null)\" = $1 ] && port=/dev/${p##*/}; done; \
    done; }";

#[test]
fn the_console_has_a_size_and_ports_have_names() {
    let folder = Folder::new("hvc");
    let (config, socket, log) = (
        folder.join("vm.json"),
        folder.join("port.sock"),
        folder.join("port.log"),
    );
    let text = format!(
        r#"{{"boot-source": {{"kernel_bundle": "replaced"}}, "console": {{"ports": [
            {{"name": "org.example.talk", "to": {{"socket": {socket:?}}}}},
            {{"name": "org.example.log", "to": {{"file": {log:?}}}}}]}}}}"#
    );
    fs::write(&config, text).unwrap();
    let script = format!(
        r#"{FIND_PORT}
        echo "on $(cat /sys/class/tty/console/active)"
        until [ "$(stty size)" = "24 80" ]; do usleep 10000; done; echo first
        until [ "$(stty size)" = "43 132" ]; do usleep 10000; done; echo then
        find_port org.example.log; seq 1 2000 >$port; echo logged
        find_port org.example.talk; exec 3<>$port
        read line <&3; echo "heard $line" >&3; head -c 70000 <&3 | sha256sum >&3
        exit 5"#
    );
    let terminal = Terminal::new();
    terminal.resize(80, 24);
    let running = Run::guest(&[config.to_str().unwrap()], &script)
        .stdin(terminal.client())
        .start();
    running.wait_for("on hvc0\n");
    running.wait_for("first\n");
    terminal.resize(132, 43);
    running.signal(Signal::WINCH);
    running.wait_for("then\n");
    running.wait_for("logged\n");
    let mut client = UnixStream::connect(&socket).unwrap();
    let bytes = &pattern(2 << 10)[..70_000];
    client.write_all(b"a line\n").unwrap();
    client.write_all(bytes).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let digits: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(answer, format!("heard a line\n{}  -\n", digits.concat()));
    running.end().code(5);
    let logged: String = (1..=2000).map(|n| n.to_string() + "\n").collect();
    assert_eq!(fs::read_to_string(&log).unwrap(), logged);
    assert!(!socket.exists(), "the socket is left behind");
}

/// What is typed before the guest listens waits for it, and far more than the guest's buffers hold waits in the pipe.
#[test]
fn what_is_typed_arrives_intact() {
    // Linux takes Ctrl-O on a console of this kind for the SysRq key, and keeps it.
    let pasted: Vec<u8> = pattern(1 << 10)
        .into_iter()
        .map(|byte| if byte == 0x0f { 0 } else { byte })
        .collect();
    let script = format!(
        "read line; echo \"got <$line>\"; stty raw -echo; echo go; head -c {} | sha256sum; exit 3",
        pasted.len()
    );
    let mut running = Run::guest(&[], &script).stdin(Stdio::piped()).start();
    running.type_in(b"before the boot\n");
    running.wait_for("got <before the boot>\n");
    running.wait_for("go\n");
    running.type_in(&pasted);
    let digits: Vec<_> = Sha256::digest(&pasted)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    running.end().code(3).shows(&digits.concat());
}

#[test]
fn a_reader_that_comes_late_gets_all_lines() {
    let mut terminal = Terminal::new();
    let last = 20_000; // 109 KB, more than all buffers on the way
    let running = Run::guest(&[], &format!("echo; seq 1 {last}; exit 7"))
        .stdout(terminal.client())
        .start();
    let mut all = terminal.read();
    std::thread::sleep(std::time::Duration::from_secs(10)); // all is full by then
    let end = format!("\n{last}\r\n");
    // The kernel's last words may follow.
    while !String::from_utf8_lossy(&all[all.len().saturating_sub(200)..]).contains(&end) {
        all.extend(terminal.read());
    }
    running.end().code(7);
    let text = String::from_utf8_lossy(&all).replace("\r\n", "\n");
    let lines: String = (1..=last).map(|n| n.to_string() + "\n").collect();
    assert!(
        text.contains(&format!("\n{lines}")),
        "{} bytes, not all as printed",
        all.len()
    );
}

#[test]
fn a_panic_is_seen_before_and_after_the_driver_is_there() {
    Run::guest(&[], "echo alive; echo c >/proc/sysrq-trigger; sleep 100")
        .end()
        .code(158)
        .shows("alive\n")
        .shows("Kernel panic - not syncing: sysrq triggered crash")
        .says("sysrq triggered crash");
    let default = Host::DEFAULT_CMDLINE.replace("console=ttyS0", "console=hvc0");
    let cmdline = format!("{default} {} rdinit=/none", Host::EARLY_CONSOLE);
    Run::guest(&["--cmdline", &cmdline], "true")
        .end()
        .code(158)
        .shows("Kernel panic - not syncing: VFS");
}
