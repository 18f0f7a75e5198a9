//! A client of the emulated host: finds or starts its keeper, runs commands, copies files. On the caller's threads.
use super::{
    HostArch, HostError, Options, explain, keeper_program,
    place::State,
    wire::{Answer, Call, Starting, Status},
};
use coracle_protocol::{
    agent::{Done, Exec, Piece, Request, VERSION},
    frame,
    tree::{Receiver, TreeError, send},
};
use std::{
    fs::{self, File},
    io::{self, BufReader},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

mod session;

pub use session::{Session, Signals, Stdin};

/// Downloads included.
const START_LIMIT: Duration = Duration::from_secs(900);
/// For an answer of the keeper; dialling the agent has its own limit below this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An emulated host that is up.
#[derive(Debug, Clone)]
pub struct Host {
    arch: HostArch,
    state: State,
    /// What the user should know.
    warning: Option<String>,
}

impl Host {
    /// Connects to the host of this architecture, or starts it. `progress` hears what takes long.
    ///
    /// A host of another version of coracle, which speaks another protocol, is replaced.
    pub fn connect_or_start(arch: HostArch, options: &Options, progress: &dyn Fn(&str)) -> Result<Self, HostError> {
        let state = State::open(arch)?;
        if let Some(host) = Self::connect_in(arch, &state)? {
            return Ok(host);
        }
        let _starter = state.lock_start(START_LIMIT)?;
        // Another starter may have been faster.
        if let Some(host) = Self::connect_in(arch, &state)? {
            return Ok(host);
        }
        // A keeper without a socket comes or goes; wait for it to decide.
        let patience = Instant::now() + Duration::from_secs(100);
        while state.lock_keeper()?.is_none() {
            if let Some(host) = Self::connect_in(arch, &state)? {
                return Ok(host);
            }
            if Instant::now() > patience {
                return Err(HostError::Busy { seconds: 100 });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let warning = start_keeper(arch, options, &state, progress)?;
        Ok(Self { arch, state, warning })
    }

    /// Connects to the host of this architecture if it is up.
    pub fn connect(arch: HostArch) -> Result<Option<Self>, HostError> {
        Self::connect_in(arch, &State::open(arch)?)
    }

    fn connect_in(arch: HostArch, state: &State) -> Result<Option<Self>, HostError> {
        let Some(status) = status(arch, state)? else {
            return Ok(None);
        };
        let host = Self {
            arch,
            state: state.clone(),
            warning: status.warning,
        };
        if status.protocol == VERSION {
            return Ok(Some(host));
        }
        host.down()?;
        Ok(None)
    }

    /// Its architecture.
    pub fn arch(&self) -> HostArch {
        self.arch
    }

    /// What its user should know, such as an erratum that could not be worked around.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    pub(super) fn with_warning(mut self, warning: String) -> Self {
        self.warning = Some(match self.warning {
            Some(old) => format!("{warning}; {old}"),
            None => warning,
        });
        self
    }

    /// How it is; `None` once it is gone.
    pub fn status(&self) -> Result<Option<Status>, HostError> {
        status(self.arch, &self.state)
    }

    /// Tears the host down and waits until it is gone. Commands in it are lost.
    pub fn down(&self) -> Result<(), HostError> {
        let Some(mut keeper) = reach(&self.state) else {
            return Ok(());
        };
        // An old keeper may not understand; it is told by signal then.
        let answered = call(&mut keeper, Call::Down).is_ok_and(|answer| answer == Answer::GoingDown);
        let patience = Instant::now() + Duration::from_secs(10);
        while self.state.lock_keeper()?.is_none() {
            if Instant::now() > patience {
                let reason = if answered {
                    "its keeper does not end"
                } else {
                    "its keeper does not answer"
                };
                return Err(HostError::Refused(format!(
                    "the emulated {} host cannot be torn down: {reason}; kill the process `coracle host keep`",
                    self.arch
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts a command. Its streams are served by [`Session::run`].
    pub fn exec(&self, exec: &Exec) -> Result<Session, HostError> {
        let mut channel = self.open()?;
        frame::write(&mut channel, &Request::Exec(exec.clone()))?;
        let back = channel.try_clone().map_err(frame::FrameError::from)?;
        Ok(Session::new(self.clone(), channel, back))
    }

    /// Copies a file or folder into the host. A folder at `to`, or a `/` at its end, takes it under its own name.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<(), HostError> {
        self.put(from, to, None)
    }

    /// Copies each file to its own absolute path in the host, unless the host still has it from before.
    pub fn copy_in_once(&self, files: &[PathBuf]) -> Result<(), HostError> {
        let mut stamped = Vec::new();
        for file in files {
            let path = std::path::absolute(file).map_err(|e| no_file(file, e))?;
            let name = utf8(&path)?.to_string();
            stamped.push((path.clone(), name, stamp(&path)?));
        }
        let mut channel = self.open()?;
        let question = stamped.iter().map(|(_, name, stamp)| (name.clone(), stamp.clone()));
        frame::write(
            &mut channel,
            &Request::Lacks {
                files: question.collect(),
            },
        )?;
        let lacks: Vec<bool> = self.answer(&mut channel)?;
        drop(channel);
        for ((path, name, stamp), _) in stamped.iter().zip(lacks).filter(|(_, lacking)| *lacking) {
            self.put(path, name, Some(stamp.clone()))?;
        }
        Ok(())
    }

    /// Copies a file or folder out of the host. A folder at `to`, or a `/` at its end, takes it under its own name.
    pub fn copy_out(&self, from: &str, to: &Path) -> Result<(), HostError> {
        let mut channel = self.open()?;
        frame::write(&mut channel, &Request::Get { from: from.to_string() })?;
        let name = Path::new(from).file_name().unwrap_or_default().to_string_lossy();
        let mut channel = BufReader::with_capacity(128 << 10, channel);
        let mut receiver = None;
        loop {
            let piece: Piece = self.answer(&mut channel)?;
            if let Piece::Failed { reason } = piece {
                return Err(HostError::Refused(format!("the emulated host {reason}")));
            }
            // Only a tree that exists may create folders here.
            if receiver.is_none() {
                receiver = Some(Receiver::new(utf8(to)?, &name)?);
            }
            if let Some(receiver) = &mut receiver
                && !receiver.take(piece)?
            {
                return Ok(());
            }
        }
    }

    fn put(&self, from: &Path, to: &str, stamp: Option<String>) -> Result<(), HostError> {
        let absolute = std::path::absolute(from).map_err(|e| no_file(from, e))?;
        let name = utf8(Path::new(absolute.file_name().unwrap_or_default()))?.to_string();
        let mut channel = self.open()?;
        let request = Request::Put {
            to: to.to_string(),
            name,
            stamp,
        };
        frame::write(&mut channel, &request)?;
        match send(from, &mut |piece| frame::write(&mut channel, &piece)) {
            Ok(()) => frame::write(&mut channel, &Piece::End)?,
            Err(error @ TreeError::Connection(_)) => return Err(self.lost(&explain(&error))),
            Err(error) => return Err(error.into()),
        }
        let done: Done = self.answer(&mut channel)?;
        done.map_err(|reason| HostError::Refused(format!("the emulated host {reason}")))
    }

    /// A channel to the agent.
    fn open(&self) -> Result<UnixStream, HostError> {
        let gone = || self.lost("its keeper does not answer");
        let mut keeper = reach(&self.state).ok_or_else(gone)?;
        match call(&mut keeper, Call::Open) {
            Ok(Answer::Opened) => Ok(keeper),
            Ok(Answer::Refused(reason)) => Err(self.lost(&reason)),
            Ok(_) | Err(_) => Err(gone()),
        }
    }

    fn answer<M: serde::de::DeserializeOwned>(&self, from: &mut impl io::Read) -> Result<M, HostError> {
        match frame::read(from) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(frame::FrameError::Io(_)) => Err(self.lost("the connection ended")),
            Err(error) => Err(error.into()),
        }
    }

    /// The host is gone; its keeper's last words say why, if it had any.
    fn lost(&self, otherwise: &str) -> HostError {
        // A dying keeper writes them before it lets the lock go.
        let patience = Instant::now() + Duration::from_secs(3);
        let mut reason = None;
        while reason.is_none() && Instant::now() < patience {
            reason = fs::read_to_string(self.state.end())
                .ok()
                .filter(|text| !text.is_empty());
            if reach(&self.state).is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        HostError::Lost {
            arch: self.arch,
            reason: reason.unwrap_or_else(|| otherwise.to_string()),
            again: true,
        }
    }
}

fn status(_: HostArch, state: &State) -> Result<Option<Status>, HostError> {
    let Some(mut keeper) = reach(state) else {
        return Ok(None);
    };
    match call(&mut keeper, Call::Status) {
        Ok(Answer::Status(status)) => Ok(Some(status)),
        // It ended just now.
        Ok(_) | Err(frame::FrameError::Io(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn reach(state: &State) -> Option<UnixStream> {
    UnixStream::connect(state.socket()).ok()
}

fn call(keeper: &mut UnixStream, call: Call) -> Result<Answer, frame::FrameError> {
    frame::write(keeper, &call)?;
    keeper.set_read_timeout(Some(ANSWER_LIMIT))?;
    let answer = frame::read(keeper)?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
    keeper.set_read_timeout(None)?;
    Ok(answer)
}

/// Starts a keeper and waits until its host is up. Answers with what the user should know.
fn start_keeper(
    arch: HostArch,
    options: &Options,
    state: &State,
    progress: &dyn Fn(&str),
) -> Result<Option<String>, HostError> {
    let program = keeper_program(options)?;
    let log = state.log();
    let log = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&log)
        .map_err(|e| no_file(&log, e))?;
    let mut keeper = Command::new(&program)
        .args(["host", "keep", "--arch", arch.name()])
        .args(["--memory", &options.memory_mib.to_string()])
        .args(["--idle", &options.idle.as_secs().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| no_file(&program, e))?;
    let words = keeper.stdout.take();
    // Nobody else waits for it, should it end before this process does.
    let _ = std::thread::Builder::new()
        .name("keeper's end".into())
        .spawn(move || keeper.wait());
    let fail = |reason: String| HostError::Start { arch, reason };
    let mut words = words.ok_or_else(|| fail("its keeper has no output".to_string()))?;
    loop {
        match frame::read(&mut words) {
            Ok(Some(Starting::Progress(text))) => progress(&text),
            Ok(Some(Starting::Ready { warning })) => return Ok(warning),
            Ok(Some(Starting::Failed(reason))) => return Err(fail(reason)),
            Ok(None) | Err(_) => {
                let log = fs::read_to_string(state.log()).unwrap_or_default();
                return Err(fail(format!("its keeper ended without a word {}", log.trim())));
            }
        }
    }
}

/// Changes whenever the content of the file may have.
fn stamp(path: &Path) -> Result<String, HostError> {
    let meta = fs::metadata(path).map_err(|e| no_file(path, e))?;
    Ok(format!(
        "{}:{}:{}:{}.{}:{}.{}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    ))
}

fn no_file(path: &Path, source: io::Error) -> HostError {
    HostError::File {
        wish: "use",
        path: path.to_path_buf(),
        source,
    }
}

fn utf8(path: &Path) -> Result<&str, HostError> {
    path.to_str().ok_or_else(|| TreeError::Kind(path.to_path_buf()).into())
}
