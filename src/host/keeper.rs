//! The keeper: the process that owns QEMU, keeps the host warm, connects clients with the agent, and tears all down.
//!
//! ```text
//!  preparing ──▶ booting ──agent's hello──▶ serving ──▶ gone
//!      └────────────┴─ failure: told to the starter ─────┘ idle, down, signal, QEMU ended, no pong
//! ```
//! The main thread starts QEMU and lives as long as the process, so that the kernel kills QEMU whenever the keeper
//! dies. [`switch`] holds the threads that accept and connect; they tell the main thread with [`Event`]s.
use super::{
    HostArch, HostError, Options, explain, free_memory_mib,
    machine::{Machine, Qemu},
    place::{self, State},
    root::{self, KernelTree},
    wire::{Starting, Status},
};
use coracle_protocol::{
    agent::{Setup, Token, VERSION},
    frame,
};
use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::OpenOptionsExt, net::UnixListener},
    path::Path,
    process::Child,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};
use switch::Switch;

mod switch;

/// What happens to a host.
#[derive(Debug)]
enum Event {
    /// The agent's control connection is there.
    Ready,
    /// The agent answered a ping.
    Pong,
    /// The agent's control connection is gone.
    AgentGone,
    /// A client or a signal wants the host gone.
    Down(&'static str),
}

/// From the start of QEMU to the agent's hello, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Between two pings.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Without an answer for so long, the host is frozen. Its one CPU may be busy, but its kernel schedules. Shorter than
/// a client waits for its channel, so that the client learns of it.
const FROZEN: Duration = Duration::from_secs(20);

/// Becomes the keeper of a host: starts it, tells `starter` how that goes, and stays until the host is gone. The
/// process should have nothing else to do. Fails only after having told the starter.
pub fn keep(arch: HostArch, options: &Options, starter: File) -> Result<(), HostError> {
    let _ = rustix::process::setsid();
    let mut starter = starter;
    let mut tell = |word: Starting| {
        // A starter that went away does not matter: the host is of use to the next one.
        let _ = frame::write(&mut starter, &word);
    };
    let kept = Keeper::start(arch, options, &mut tell);
    match kept {
        Ok(Some(keeper)) => {
            tell(Starting::Ready {
                warning: keeper.warning.clone(),
            });
            drop(starter);
            keeper.serve(options.idle);
            Ok(())
        }
        // Another keeper is alive: to its starter that is as good.
        Ok(None) => {
            tell(Starting::Ready { warning: None });
            Ok(())
        }
        Err(error) => {
            tell(Starting::Failed(explain(&error)));
            Err(error)
        }
    }
}

/// A host that serves.
struct Keeper {
    state: State,
    qemu: Child,
    switch: Arc<Switch>,
    events: Receiver<Event>,
    warning: Option<String>,
    /// The keeper's lock, free for others once everything else is gone.
    _lock: File,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        self.state.clean();
    }
}

impl Keeper {
    fn start(arch: HostArch, options: &Options, tell: &mut impl FnMut(Starting)) -> Result<Option<Self>, HostError> {
        let state = State::open(arch)?;
        let Some(lock) = state.lock_keeper()? else {
            return Ok(None);
        };
        state.clean();
        let _ = fs::remove_file(state.end());
        let cache = place::cache()?;
        let tell = std::cell::RefCell::new(tell);
        let progress = |text: &str| (tell.borrow_mut())(Starting::Progress(text.to_string()));
        let program = Qemu::find(arch, &cache)?;
        check_memory(options.memory_mib)?;
        let kernel = KernelTree::find(arch, &cache, &progress)?;
        let base = root::base(arch, &kernel, &cache, &progress)?;
        let (listener, port) = listen()?;
        let token = random_token()?;
        let setup = root::setup(&Setup::Serve {
            port,
            token: token.clone(),
        })?;
        write_initrd(&state.initrd(), &[&base, &setup.to_bytes()])?;
        progress(&format!("starting the emulated {arch} host"));
        let started = Instant::now();
        let _ = fs::remove_file(state.console());
        let qemu = program.start(&Machine {
            kernel: &kernel.image,
            initrd: &state.initrd(),
            console: &state.console(),
            memory_mib: options.memory_mib,
            deterministic: None,
        })?;
        let (tell, events) = channel();
        let status = Status {
            protocol: VERSION,
            arch,
            keeper: std::process::id(),
            qemu: qemu.id(),
            memory_mib: options.memory_mib,
            up_seconds: 0,
            boot_ms: 0,
            clients: 0,
            idle_seconds_left: 0,
            kernel: kernel
                .image
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            warning: program.warning.clone(),
        };
        let switch = Arc::new(Switch::new(token, status, options.idle, tell.clone()));
        let mut keeper = Self {
            state,
            qemu,
            switch,
            events,
            warning: program.warning,
            _lock: lock,
        };
        watch_signals(tell)?;
        keeper.boot(arch, listener, started)?;
        Ok(Some(keeper))
    }

    /// Waits for the agent, then opens the door for clients.
    fn boot(&mut self, arch: HostArch, listener: TcpListener, started: Instant) -> Result<(), HostError> {
        Switch::accept_agent(&self.switch, listener).map_err(no_thread)?;
        let fail = |state: &State, what: String| HostError::Start {
            arch,
            reason: format!("{what}; its console ends with{}", state.console_tail()),
        };
        loop {
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Ready) => break,
                Ok(Event::Down(why)) => return Err(fail(&self.state, why.to_string())),
                Ok(Event::Pong | Event::AgentGone) | Err(_) => {}
            }
            if let Ok(Some(status)) = self.qemu.try_wait() {
                let log = fs::read_to_string(self.state.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(fail(&self.state, format!("QEMU ended with {status} ({last})")));
            }
            if started.elapsed() > BOOT_LIMIT {
                let what = format!("it was not ready after {} seconds", BOOT_LIMIT.as_secs());
                return Err(fail(&self.state, what));
            }
        }
        // QEMU has read it, and it holds the token.
        let _ = fs::remove_file(self.state.initrd());
        self.switch.ready(started.elapsed());
        // Also sets the host's clock, before the first command looks at it.
        self.switch.ping();
        let socket = self.state.socket();
        let listener = UnixListener::bind(&socket).map_err(|source| HostError::File {
            wish: "listen on",
            path: socket,
            source,
        })?;
        Switch::accept_clients(&self.switch, listener).map_err(no_thread)
    }

    /// Serves until there is a reason to stop, and writes it down.
    fn serve(mut self, idle: Duration) {
        let reason = self.wait(idle);
        // Clients of a lost host read the reason when their connection ends, so it comes first.
        let _ = fs::write(self.state.end(), reason);
    }

    fn wait(&mut self, idle: Duration) -> String {
        let (mut ping, mut pong) = (Instant::now(), Instant::now());
        loop {
            match self.events.recv_timeout(Duration::from_millis(250)) {
                Ok(Event::Down(why)) => return why.to_string(),
                Ok(Event::AgentGone) => return self.why_gone(),
                Ok(Event::Pong) => pong = Instant::now(),
                Ok(Event::Ready) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return "the keeper's threads ended".to_string(),
            }
            if let Ok(Some(status)) = self.qemu.try_wait() {
                return format!("QEMU ended with {status}{}", self.console());
            }
            if ping.elapsed() >= HEARTBEAT {
                self.switch.ping();
                ping = Instant::now();
            }
            if pong.elapsed() > FROZEN {
                return format!("it froze: no answer for {} seconds", FROZEN.as_secs());
            }
            if self.switch.idle_for().is_some_and(|time| time >= idle) {
                return format!("nobody used it for {} seconds", idle.as_secs());
            }
        }
    }

    fn why_gone(&mut self) -> String {
        // A host that panics or powers off takes QEMU with it in a moment.
        let patience = Instant::now() + Duration::from_secs(2);
        while Instant::now() < patience {
            if let Ok(Some(_)) = self.qemu.try_wait() {
                return format!("it shut down or crashed{}", self.console());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        format!("its agent ended the connection{}", self.console())
    }

    fn console(&self) -> String {
        let tail = self.state.console_tail();
        if tail.is_empty() {
            tail
        } else {
            format!("; its console ends with{tail}")
        }
    }
}

/// The name space of errors has no word for "no thread"; the state folder is what the keeper works on.
fn no_thread(source: std::io::Error) -> HostError {
    HostError::File {
        wish: "start a thread for",
        path: "the emulated host's keeper".into(),
        source,
    }
}

fn check_memory(wanted: u32) -> Result<(), HostError> {
    // QEMU itself and the copies of the initial file system need some too.
    match free_memory_mib() {
        Some(free) if free < u64::from(wanted) / 2 + 128 => Err(HostError::Memory { wanted, free }),
        _ => Ok(()),
    }
}

fn listen() -> Result<(TcpListener, u16), HostError> {
    let fail = |source| HostError::File {
        wish: "listen on",
        path: "127.0.0.1".into(),
        source,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(fail)?;
    let port = listener.local_addr().map_err(fail)?.port();
    Ok((listener, port))
}

/// Thirty-two bytes from the kernel.
fn random_token() -> Result<Token, HostError> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|source| HostError::File {
            wish: "read",
            path: "/dev/urandom".into(),
            source,
        })?;
    Ok(Token(bytes))
}

/// Writes joined archives to a file that only the user can read.
pub(super) fn write_initrd(path: &Path, parts: &[&[u8]]) -> Result<(), HostError> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))
    };
    write().map_err(|source| HostError::File {
        wish: "write",
        path: path.to_path_buf(),
        source,
    })
}

fn watch_signals(events: Sender<Event>) -> Result<(), HostError> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(no_thread)?;
    let watch = move || {
        for _ in signals.forever() {
            let _ = events.send(Event::Down("a signal told its keeper to end"));
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map_err(no_thread)?;
    Ok(())
}
