//! The one place that starts `coracle` as its users do: a process with a captured console, typed input and a limit on
//! every wait. When a test fails, the end of the console is printed.
#![allow(dead_code, reason = "each test program uses a part of it")]
use coracle_arch::{Arch, Host};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long anything may take. An emulated host is slow on a busy machine, and its clock then runs fast.
pub const LIMIT: Duration = Duration::from_secs(900);

/// Bytes of a console that a failed test shows.
const TAIL: usize = 4000;

/// The kernel bundle for this architecture: `CORACLE_TEST_BUNDLE`, or where `coracle kernel build` leaves it.
pub fn bundle() -> PathBuf {
    let made = || {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("target/bundle")
            .join(Host::NAME)
    };
    let bundle = std::env::var_os("CORACLE_TEST_BUNDLE").map_or_else(made, PathBuf::from);
    assert!(
        bundle.join("manifest.json").exists(),
        "no kernel bundle in {}: make one with `coracle kernel build`, or name it in CORACLE_TEST_BUNDLE",
        bundle.display()
    );
    bundle
}

/// Both ends of a new pipe.
pub fn pipe() -> (File, File) {
    let (reader, writer) = io::pipe().unwrap();
    (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
}

/// A `coracle` that is about to start.
pub struct Run {
    command: Command,
    captured: bool,
}

impl Run {
    /// `coracle` with arguments, no input and a captured output. A VM runs on the KVM that is here: a tiny guest needs
    /// no better one, and for the others cargo's runner has seen to that.
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut run = Self::program(env!("CARGO_BIN_EXE_coracle"));
        let mut arguments: Vec<_> = arguments.into_iter().collect();
        if arguments.starts_with(&["vm", "run"]) {
            arguments.splice(2..2, ["--host", "kvm"]);
        }
        run.command.args(arguments);
        run
    }

    /// Another program, in the same way.
    pub fn program(name: &str) -> Self {
        let mut command = Command::new(name);
        command
            .env_remove("CORACLE_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            captured: true,
        }
    }

    /// `coracle vm run` with a small guest from the bundle that runs `script` in a shell. Later options win.
    pub fn guest(options: &[&str], script: &str) -> Self {
        let bundle = bundle();
        let mut run = Self::new(["vm", "run", "--bundle"]);
        run.command.arg(bundle);
        if !options.contains(&"--memory") {
            run.command.args(["--memory", "128M"]);
        }
        run.command.args(options).args(["--", "sh", "-c", script]);
        run
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Works in `folder` and keeps its temporary files there.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder).env("TMPDIR", folder);
        self
    }

    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    /// The console goes to `to` and is not captured.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.captured = false;
        self.command.stdout(to);
        self
    }

    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("coracle starts");
        let console = Stream::default();
        let errors = Stream::default();
        let mut readers = vec![errors.fill_from(child.stderr.take().unwrap())];
        if self.captured {
            readers.push(console.fill_from(child.stdout.take().unwrap()));
        }
        Running {
            input: child.stdin.take(),
            child,
            console,
            errors,
            readers,
        }
    }

    /// Runs it to its end.
    pub fn end(self) -> Ended {
        self.start().end()
    }
}

/// What a process has written so far.
#[derive(Clone, Default)]
struct Stream(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn fill_from(&self, mut source: impl Read + Send + 'static) -> JoinHandle<()> {
        let stream = self.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                let n = source.read(&mut chunk).unwrap_or(0);
                let (state, changed) = &*stream.0;
                let mut state = state.lock().unwrap();
                state.bytes.extend_from_slice(&chunk[..n]);
                state.ended |= n == 0;
                changed.notify_all();
                if n == 0 {
                    return;
                }
            }
        })
    }

    /// Waits until `enough` is content with what came; `false` if the stream ended before.
    fn wait(&self, enough: impl Fn(&[u8]) -> bool) -> bool {
        let (state, changed) = &*self.0;
        let wait = changed.wait_timeout_while(state.lock().unwrap(), LIMIT, |state| {
            !enough(&state.bytes) && !state.ended
        });
        let (state, timeout) = wait.unwrap();
        assert!(!timeout.timed_out(), "nothing came for {LIMIT:?}");
        enough(&state.bytes)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }
}

/// A running `coracle`; killed if it is dropped.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    console: Stream,
    errors: Stream,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until the console shows `text`, `count` times.
    pub fn wait_for_times(&self, text: &str, count: usize) {
        let seen = |bytes: &[u8]| String::from_utf8_lossy(bytes).matches(text).count() >= count;
        assert!(
            self.console.wait(seen),
            "the console ended without {text:?} ({count} times)"
        );
    }

    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until standard error shows `text`; answers all of it.
    pub fn wait_for_error(&self, text: &str) -> String {
        let seen = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
        assert!(self.errors.wait(seen), "standard error ended without {text:?}");
        String::from_utf8_lossy(&self.errors.bytes()).into_owned()
    }

    /// Types bytes; needs a piped standard input. Blocks while nobody takes them.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.input.as_mut().expect("a piped input").write_all(bytes).unwrap();
    }

    /// The end of what is typed.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn wait_child(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "coracle has not ended within {LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end and for all that it wrote.
    pub fn end(mut self) -> Ended {
        let status = self.wait_child();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ended {
            status,
            console: self.console.bytes(),
            errors: String::from_utf8_lossy(&self.errors.bytes()).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            print_tail(&self.console.bytes(), &String::from_utf8_lossy(&self.errors.bytes()));
        }
    }
}

fn print_tail(console: &[u8], errors: &str) {
    let tail = &console[console.len().saturating_sub(TAIL)..];
    eprintln!("--- end of the console\n{}", String::from_utf8_lossy(tail));
    eprintln!("--- standard error\n{errors}---");
}

/// A `coracle` that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub console: Vec<u8>,
    pub errors: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// Holds the process to an exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        if self.status.code() != Some(code) {
            self.show();
            panic!("exit code {code} was due, not {:?}", self.status);
        }
        self
    }

    /// Holds the process to a signal that ended it.
    #[track_caller]
    pub fn killed_by(self, signal: Signal) -> Self {
        if self.status.signal() != Some(signal.as_raw()) {
            self.show();
            panic!("the end by {signal:?} was due, not {:?}", self.status);
        }
        self
    }

    /// Holds the console to have shown `text`.
    #[track_caller]
    pub fn shows(self, text: &str) -> Self {
        if !self.text().contains(text) {
            self.show();
            panic!("the console has no {text:?}");
        }
        self
    }

    /// Holds standard error to have shown `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        if !self.errors.contains(text) {
            self.show();
            panic!("standard error has no {text:?}");
        }
        self
    }

    /// The number after `name` at the start of a line of the console.
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text();
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(name));
        let digits = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        digits.unwrap_or_else(|| {
            self.show();
            panic!("the console has no line {name:?} with a number");
        })
    }

    pub fn show(&self) {
        print_tail(&self.console, &self.errors);
    }
}
