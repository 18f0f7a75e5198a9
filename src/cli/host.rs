//! `coracle host`.
use super::{Failure, Outcome, exit};
use clap::Args;
use coracle::host::{
    self, Exec, Host as Emulated, HostArch, HostError, Once, Options, RawTerminal, Runner, Signals, Stdin, with_host,
};
use std::{
    fs::File,
    io::{self, IsTerminal, Read as _},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The verbs of `coracle host`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Host {
    /// Start the host, unless it is up
    Up(Up),
    /// Run a command in the host; starts the host if need be
    Exec(ExecArgs),
    /// Copy files or folders into or out of the host, which is written `host:PATH`
    Cp(Cp),
    /// Tear the host down
    Down(Which),
    /// Show which hosts are up
    Status(StatusArgs),
    /// Own a host; started by the other verbs
    #[command(hide = true)]
    Keep(Up),
    /// Run a binary for cargo, here or in the host
    #[command(hide = true)]
    Runner(RunnerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Architecture of the host: x86_64 or aarch64 [default: that of this machine]
    #[arg(long, value_parser = parse_arch)]
    arch: Option<HostArch>,
}

pub(super) fn parse_arch(name: &str) -> Result<HostArch, String> {
    HostArch::from_name(name).ok_or_else(|| "choose x86_64 or aarch64".to_string())
}

impl Which {
    fn arch(&self) -> HostArch {
        self.arch.or(HostArch::native()).unwrap_or(HostArch::X86_64)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    start: Start,
}

/// How a host is started; without effect on one that is up.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Memory of the host in MiB
    #[arg(long, value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(512..=1 << 20))]
    memory: u32,
    /// Tear the host down after so many seconds without use
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
}

impl Start {
    fn options(&self) -> Options {
        Options {
            memory_mib: self.memory,
            idle: Duration::from_secs(self.idle),
            program: None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    start: Start,
    /// Set an environment variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Working directory in the host, created if it is missing
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Run the command alone in a host of its own whose clock counts instructions: figures repeat exactly. Standard
    /// input is read to its end first, and the host is gone afterwards
    #[arg(long, conflicts_with = "tty")]
    deterministic: bool,
    /// With --deterministic: a file or folder that the command needs; may be repeated
    #[arg(long = "in", value_name = "PATH[=HOST_PATH]", requires = "deterministic", value_parser = parse_pair)]
    files_in: Vec<(String, String)>,
    /// With --deterministic: a file or folder that the command leaves; may be repeated
    #[arg(long = "out", value_name = "HOST_PATH[=PATH]", requires = "deterministic", value_parser = parse_pair)]
    files_out: Vec<(String, String)>,
    /// With --deterministic: give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "deterministic")]
    limit: u64,
    /// Run the command on a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// `A=B`, or `A` for the same path on both sides.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (from, to) = text.split_once('=').unwrap_or((text, text));
    if from.is_empty() || to.is_empty() {
        return Err("write it as PATH or FROM=TO".to_string());
    }
    Ok((from.to_string(), to.to_string()))
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err("write it as KEY=VALUE".to_string()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    start: Start,
    /// What to copy: a path here, or `host:PATH`
    source: String,
    /// Where to: a path here, or `host:PATH`
    destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunnerArgs {
    #[command(flatten)]
    which: Which,
    /// Kill the binary after so many seconds in the host
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    limit: u64,
    /// The binary and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "BINARY"
    )]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
pub(crate) fn run(verb: Host) -> Outcome {
    match verb {
        Host::Up(up) => {
            connect(up.which.arch(), &up.start)?;
            Ok(0)
        }
        Host::Exec(arguments) => exec(arguments),
        Host::Cp(cp) => copy(&cp),
        Host::Down(which) => {
            if let Some(host) = Emulated::connect(which.arch())? {
                host.down()?;
            }
            Ok(0)
        }
        Host::Status(arguments) => status(&arguments),
        Host::Runner(arguments) => runner(arguments),
        Host::Keep(up) => {
            // The keeper's word to its starter; nothing else may go there, and nothing may keep it open.
            let starter = rustix::io::dup(rustix::stdio::stdout()).map_err(io::Error::from)?;
            rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?).map_err(io::Error::from)?;
            host::keep(up.which.arch(), &up.start.options(), File::from(starter))?;
            Ok(0)
        }
    }
}

/// What takes long, for whoever watches.
pub(super) fn tell(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("coracle: {text}");
    }
}

fn warn(host: &Emulated) {
    if let Some(warning) = host.warning() {
        eprintln!("coracle: warning: {warning}");
    }
}

fn connect(arch: HostArch, start: &Start) -> Result<Emulated, HostError> {
    let host = Emulated::connect_or_start(arch, &start.options(), &tell)?;
    warn(&host);
    Ok(host)
}

fn exec(arguments: ExecArgs) -> Outcome {
    let terminal = arguments.tty.then(RawTerminal::size).flatten();
    if arguments.tty && terminal.is_none() {
        let text = "--tty needs a terminal as standard input; leave it out";
        return Err(Failure::new(exit::BAD_ARGUMENTS, text));
    }
    let command = Exec {
        argv: arguments.command,
        env: arguments.env,
        cwd: arguments.cwd,
        terminal,
    };
    if arguments.deterministic {
        let (files_in, files_out) = (arguments.files_in, arguments.files_out);
        let once = Once {
            exec: command,
            stdin: read_stdin()?,
            files_in: files_in
                .into_iter()
                .map(|(a, b)| (a.into(), absolute_here(&b)))
                .collect(),
            files_out: files_out.into_iter().map(|(a, b)| (absolute(&a), b.into())).collect(),
            limit: Duration::from_secs(arguments.limit),
        };
        let streams: (&mut dyn io::Write, &mut dyn io::Write) = (&mut io::stdout(), &mut io::stderr());
        return code_of(once.run(arguments.which.arch(), &arguments.start.options(), &tell, streams));
    }
    let outcome = with_host(
        arguments.which.arch(),
        &arguments.start.options(),
        &tell,
        &mut |host: &Emulated| {
            warn(host);
            let session = host.exec(&command)?;
            forward_signals(session.signals(), command.terminal.is_some());
            let _raw = command.terminal.and_then(|_| RawTerminal::enter());
            session.run(Stdin::Inherit, &mut io::stdout().lock(), &mut io::stderr().lock())
        },
    );
    code_of(outcome)
}

fn runner(arguments: RunnerArgs) -> Outcome {
    let arch = arguments.which.arch();
    let mut words = arguments.command.into_iter();
    let runner = Runner {
        arch,
        binary: words.next().map(PathBuf::from).unwrap_or_default(),
        args: words.collect(),
        limit: Duration::from_secs(arguments.limit),
    };
    if !runner.needs_host() {
        let error = std::process::Command::new(&runner.binary).args(&runner.args).exec();
        return Err(Failure::new(126, error));
    }
    // In the log of a test run it matters where a test ran and what happened there.
    let progress = |text: &str| eprintln!("coracle: {text}");
    let outcome = runner.run(&Options::default(), &progress, &mut |signals| {
        forward_signals(signals, false);
    });
    code_of(outcome)
}

/// Standard input to its end; nothing from a terminal.
fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !io::stdin().is_terminal() {
        io::stdin().read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A path that counts from the working directory here and is taken over.
fn absolute_here(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_string(), |path| path.to_string_lossy().into_owned())
}

/// The exit code of a command in the host.
fn code_of(outcome: Result<u8, HostError>) -> Outcome {
    match outcome {
        Err(error @ HostError::Command { code, .. }) => Err(Failure::new(code, error)),
        // The reader of our output went away, as `head` does.
        Err(HostError::File { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(128 + 13),
        outcome => Ok(outcome?),
    }
}

/// Passes signals on to the command, and new sizes of the terminal. Without the thread the signals end this process,
/// and with it the command.
pub(super) fn forward_signals(signals: Signals, terminal: bool) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
    let mut numbers = vec![SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    numbers.extend(terminal.then_some(SIGWINCH));
    let Ok(mut caught) = signal_hook::iterator::Signals::new(numbers) else {
        return;
    };
    let _ = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for number in caught.forever() {
            match RawTerminal::size() {
                Some(size) if number == SIGWINCH => signals.resize(size),
                _ => signals.send(number),
            }
        }
    });
}

fn copy(cp: &Cp) -> Outcome {
    let inside = |path: &str| path.strip_prefix("host:").map(str::to_string);
    match (inside(&cp.source), inside(&cp.destination)) {
        (None, Some(to)) => connect(cp.which.arch(), &cp.start)?.copy_in(Path::new(&cp.source), &absolute(&to))?,
        (Some(from), None) => {
            connect(cp.which.arch(), &cp.start)?.copy_out(&absolute(&from), &PathBuf::from(&cp.destination))?;
        }
        _ => {
            let text = "one of the two paths, and only one, begins with `host:`";
            return Err(Failure::new(exit::BAD_ARGUMENTS, text));
        }
    }
    Ok(0)
}

/// Paths in the host count from its root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    }
}

fn status(arguments: &StatusArgs) -> Outcome {
    let wanted = match arguments.which.arch {
        Some(arch) => vec![arch],
        None => HostArch::ALL.to_vec(),
    };
    let mut up = Vec::new();
    for arch in wanted {
        if let Some(host) = Emulated::connect(arch)? {
            up.extend(host.status()?);
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&up)?);
    } else if up.is_empty() {
        println!("no emulated host is up; start one with `coracle host up`");
    } else {
        println!(
            "{:<8} {:>8} {:>8} {:>8} {:>8} {:>8}  KERNEL",
            "ARCH", "UP S", "MEM MIB", "CLIENTS", "IDLE S", "QEMU"
        );
        for s in &up {
            println!(
                "{:<8} {:>8} {:>8} {:>8} {:>8} {:>8}  {}",
                s.arch, s.up_seconds, s.memory_mib, s.clients, s.idle_seconds_left, s.qemu, s.kernel
            );
        }
    }
    Ok(u8::from(up.is_empty() && arguments.which.arch.is_some()))
}
