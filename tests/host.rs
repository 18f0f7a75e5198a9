//! The emulated host with a real QEMU: one host per test and architecture, in a state folder of its own.
//!
//! Every wait has a limit. Without QEMU, or without a coracle-guest for the architecture, there is nothing to test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests, and a test may panic anywhere"
)]
use std::{
    env, fs,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const COMMAND: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(240);

/// A place for one test's hosts; they are gone when it is dropped.
struct Place {
    dir: PathBuf,
    arch: &'static str,
}

impl Place {
    /// `None` where this machine cannot emulate the architecture.
    fn new(arch: &'static str, name: &str) -> Option<Self> {
        if env::var_os("CORACLE_EMULATED_HOST").is_some() {
            eprintln!("skipped: already in an emulated host");
            return None;
        }
        let has = |program: &str| env::split_paths(&env::var_os("PATH").unwrap()).any(|d| d.join(program).is_file());
        if !has(&format!("qemu-system-{arch}")) {
            eprintln!("skipped: no qemu-system-{arch}");
            return None;
        }
        if guest(arch).is_none() {
            eprintln!("skipped: no coracle-guest for {arch}; build it");
            return None;
        }
        let dir = env::temp_dir().join(format!("coracle-host-test-{}-{arch}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Some(Self { dir, arch })
    }

    fn coracle(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(["host", verb, "--arch", self.arch]).args(args);
        command.env("XDG_RUNTIME_DIR", &self.dir);
        let variable = format!("CORACLE_GUEST_{}", self.arch.to_uppercase());
        command.env(variable, guest(self.arch).unwrap());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn up(&self, args: &[&str]) {
        let output = finish(self.coracle("up", args).spawn().unwrap(), Vec::new(), START);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn exec(&self, command: &[&str], stdin: &[u8]) -> Output {
        let mut coracle = self.coracle("exec", &["--"]);
        coracle.args(command).stdin(Stdio::piped());
        finish(coracle.spawn().unwrap(), stdin.to_vec(), COMMAND)
    }

    fn sh(&self, script: &str) -> Output {
        self.exec(&["sh", "-c", script], b"")
    }

    fn status(&self) -> Option<serde_json::Value> {
        let output = finish(
            self.coracle("status", &["--json"]).spawn().unwrap(),
            Vec::new(),
            COMMAND,
        );
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        all.get(0).cloned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(child) = self.coracle("down", &[]).spawn() {
            finish(child, Vec::new(), COMMAND);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn guest(arch: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(format!("CORACLE_GUEST_{}", arch.to_uppercase())) {
        return Some(PathBuf::from(path));
    }
    let debug = Path::new(env!("CARGO_BIN_EXE_coracle")).parent().unwrap();
    let target = debug.parent().unwrap();
    let triple = format!("{arch}-unknown-linux-gnu");
    let mut candidates = vec![];
    if arch == env::consts::ARCH {
        candidates.push(debug.join("coracle-guest"));
    }
    for base in [target.to_path_buf(), target.join("cross")] {
        candidates.extend(["guest", "release", "debug"].map(|p| base.join(&triple).join(p).join("coracle-guest")));
    }
    candidates.into_iter().find(|path| path.is_file())
}

/// Feeds and reads a child to its end, or kills it at the limit.
fn finish(mut child: Child, input: Vec<u8>, limit: Duration) -> Output {
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|threads| {
        threads.spawn(move || stdin.as_mut().map(|to| to.write_all(&input)));
        let read = |from: &mut dyn Read| {
            let mut all = Vec::new();
            from.read_to_end(&mut all).unwrap();
            all
        };
        let out = threads.spawn(move || read(&mut stdout));
        let err = threads.spawn(move || read(&mut stderr));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > limit {
                child.kill().unwrap();
                panic!("no end after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Output {
            status,
            stdout: out.join().unwrap(),
            stderr: err.join().unwrap(),
        }
    })
}

fn until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn alive(pid: u64) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// All that a warm host must do; one start serves all of it.
fn a_warm_host_serves(arch: &'static str) {
    let Some(place) = Place::new(arch, "warm") else { return };
    // Two starters at once make one host.
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| place.up(&[]));
        }
    });
    let first = place.status().unwrap();
    assert_eq!(first["arch"], arch);

    let output = place.sh("uname -m; test -c /dev/kvm && echo kvm; echo oops >&2; exit 42");
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{arch}\nkvm\n"));
    assert_eq!(output.stderr, b"oops\n");

    exit_codes(&place);
    streams(&place);
    parallel(&place);
    copies(&place);
    signals(&place);
    a_client_that_goes_away_takes_its_command_with_it(&place);
    // All of this in one and the same host.
    assert_eq!(place.status().unwrap()["qemu"], first["qemu"]);
}

fn exit_codes(place: &Place) {
    assert_eq!(place.exec(&["true"], b"").status.code(), Some(0));
    assert_eq!(place.exec(&["/no/such/program"], b"").status.code(), Some(127));
    assert_eq!(place.exec(&["/etc/passwd"], b"").status.code(), Some(126));
    assert_eq!(place.sh("kill -SEGV $$").status.code(), Some(139), "a crash");
    let orphan = place.sh("(sleep 1000 &) ; sleep 1000 & echo done");
    assert_eq!(orphan.stdout, b"done\n", "what it leaves behind is not waited for");
    let output = place.sh("pidof sleep || ps | grep -c '[s]leep 1000'");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "and has ended");
    let zombies = place.sh("cat /proc/[0-9]*/stat | grep -c ') Z '");
    assert_eq!(String::from_utf8_lossy(&zombies.stdout).trim(), "0");
}

fn streams(place: &Place) {
    let bytes = noise(10 << 20);
    let output = place.exec(&["cat"], &bytes);
    assert!(output.status.success());
    assert!(
        output.stdout == bytes,
        "{} of {} bytes",
        output.stdout.len(),
        bytes.len()
    );
    // A command that reads nothing does not hang its client.
    let output = place.exec(&["true"], &bytes);
    assert_eq!(output.status.code(), Some(0));
    let mut coracle = place.coracle("exec", &["--env", "COLOUR=blue", "--cwd", "/tmp/new", "--"]);
    coracle.args(["sh", "-c", "echo $COLOUR $PWD"]);
    let output = finish(coracle.spawn().unwrap(), Vec::new(), COMMAND);
    assert_eq!(output.stdout, b"blue /tmp/new\n");
}

fn parallel(place: &Place) {
    std::thread::scope(|threads| {
        for i in 0..8_u8 {
            threads.spawn(move || {
                let bytes = vec![i; 100_000];
                let output = place.exec(&["sh", "-c", &format!("cat; exit {i}")], &bytes);
                assert_eq!(output.status.code(), Some(i.into()));
                assert!(output.stdout == bytes);
            });
        }
    });
}

fn copies(place: &Place) {
    let tree = place.dir.join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/noise"), noise(1 << 20)).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\necho copied\n").unwrap();
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tree.join("run"), mode).unwrap();
    std::os::unix::fs::symlink("a/b", tree.join("link")).unwrap();
    let cp = |from: &str, to: &str| {
        let output = finish(place.coracle("cp", &[from, to]).spawn().unwrap(), Vec::new(), COMMAND);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(cp(tree.to_str().unwrap(), "host:/tmp/in/"), (Some(0), String::new()));
    assert_eq!(place.exec(&["/tmp/in/tree/run"], b"").stdout, b"copied\n");
    let back = place.dir.join("back");
    assert_eq!(
        cp("host:/tmp/in/tree", back.to_str().unwrap()),
        (Some(0), String::new())
    );
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(&tree)
        .arg(&back)
        .output();
    assert!(diff.unwrap().status.success());
    let (code, text) = cp("host:/no/such/file", back.to_str().unwrap());
    assert!(code == Some(1) && text.contains("/no/such/file"), "{text}");
}

fn signals(place: &Place) {
    let mut coracle = place.coracle("exec", &["--"]);
    coracle.args([
        "sh",
        "-c",
        "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut child = coracle.spawn().unwrap();
    let mut first = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = finish(child, Vec::new(), COMMAND);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(3), &b"caught\n"[..])
    );
}

fn a_client_that_goes_away_takes_its_command_with_it(place: &Place) {
    let mut coracle = place.coracle("exec", &["--"]);
    let mut child = coracle.args(["sh", "-c", "echo ready; sleep 4321"]).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until(COMMAND, "the end of the command", || {
        place.sh("ps | grep -c '[s]leep 4321'").stdout == b"0\n"
    });
}

#[test]
fn a_warm_host_serves_on_x86_64() {
    a_warm_host_serves("x86_64");
}

#[test]
fn a_warm_host_serves_on_aarch64() {
    a_warm_host_serves("aarch64");
}

#[test]
fn a_deterministic_host_prints_the_same_figures_twice() {
    let Some(place) = Place::new(env::consts::ARCH, "once") else {
        return;
    };
    let input = place.dir.join("input");
    fs::write(&input, noise(100_000)).unwrap();
    let (given, out) = (format!("{}=/tmp/given", input.display()), place.dir.join("out"));
    let back = format!("/tmp/made={}", out.display());
    let script = "cat; echo oops >&2; cp /tmp/given /tmp/made; cat /proc/uptime; exit 9";
    let run = || {
        let mut coracle = place.coracle("exec", &["--deterministic", "--in", &given, "--out", &back]);
        coracle.args(["--", "sh", "-c", script]).stdin(Stdio::piped());
        finish(coracle.spawn().unwrap(), b"input\n".to_vec(), START)
    };
    let (first, second) = (run(), run());
    assert_eq!(
        first.status.code(),
        Some(9),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    assert!(first.stdout.starts_with(b"input\n") && first.stderr == b"oops\n");
    assert_eq!(fs::read(&out).unwrap(), noise(100_000));
    // The last line is the time in the host when the command ended.
    assert_eq!(
        String::from_utf8_lossy(&first.stdout),
        String::from_utf8_lossy(&second.stdout)
    );
    let left = fs::read_dir(place.dir.join("coracle")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_killed_keeper_leaves_no_qemu_and_its_place_is_free() {
    let Some(place) = Place::new(env::consts::ARCH, "killed") else {
        return;
    };
    place.up(&[]);
    let status = place.status().unwrap();
    let (keeper, qemu) = (status["keeper"].as_u64().unwrap(), status["qemu"].as_u64().unwrap());
    assert!(alive(keeper) && alive(qemu));
    let pid = rustix::process::Pid::from_raw(keeper.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(Duration::from_secs(10), "the end of QEMU", || !alive(qemu));
    assert!(place.status().is_none());
    place.up(&[]);
    assert_ne!(place.status().unwrap()["keeper"].as_u64(), Some(keeper));
}

#[test]
fn an_idle_host_is_torn_down_and_leaves_no_state() {
    let Some(place) = Place::new(env::consts::ARCH, "idle") else {
        return;
    };
    place.up(&["--idle", "3"]);
    let status = place.status().unwrap();
    let (keeper, qemu) = (status["keeper"].as_u64().unwrap(), status["qemu"].as_u64().unwrap());
    // A command that runs longer than that is use.
    assert_eq!(place.sh("sleep 5; echo still here").stdout, b"still here\n");
    until(Duration::from_secs(20), "the end of the host", || {
        !alive(qemu) && !alive(keeper)
    });
    let state = place.dir.join("coracle").join(format!("host-{}", place.arch));
    assert!(!state.join("socket").exists() && !state.join("initrd").exists());
    let why = fs::read_to_string(state.join("end")).unwrap();
    assert!(why.contains("nobody used it"), "{why}");
}

#[test]
fn a_host_that_powers_off_is_replaced() {
    let Some(place) = Place::new(env::consts::ARCH, "crash") else {
        return;
    };
    place.up(&[]);
    let first = place.status().unwrap();
    let output = place.sh("echo going; sleep 0.5; echo o > /proc/sysrq-trigger; sleep 30");
    assert_ne!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("went away"), "{text}");
    assert_eq!(place.sh("echo again").stdout, b"again\n");
    assert_ne!(place.status().unwrap()["qemu"], first["qemu"]);
}

#[test]
fn a_frozen_host_is_replaced_and_the_command_runs_in_the_new_one() {
    let Some(place) = Place::new(env::consts::ARCH, "frozen") else {
        return;
    };
    place.up(&[]);
    let qemu = place.status().unwrap()["qemu"].as_u64().unwrap();
    let pid = rustix::process::Pid::from_raw(qemu.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut coracle = place.coracle("exec", &["--"]);
    let output = finish(coracle.args(["echo", "again"]).spawn().unwrap(), Vec::new(), START);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.stdout, b"again\n", "{text}");
    assert!(text.contains("froze") && text.contains("started again"), "{text}");
    assert!(!alive(qemu));
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    let Some(place) = Place::new(env::consts::ARCH, "missing") else {
        return;
    };
    let mut coracle = place.coracle("up", &[]);
    let output = finish(coracle.env("PATH", "/nowhere").spawn().unwrap(), Vec::new(), COMMAND);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("qemu-system-") && text.contains("apt-get install"),
        "{text}"
    );
    assert!(place.status().is_none());
}
