//! The processes that the host has asked for, and their streams.
//!
//! Lock order: `table`, then the children's. The table is locked while a process is started, so that its end finds it.
use super::{
    outbox::{Asker, DONE, Reply, failure, invalid, refused},
    relay::{AtEnd, Ended, Pair, Relay},
    user::Identity,
    vsock,
};
use crate::{
    children::{Children, Credentials, Ending, Group, Manner, Running},
    terminal,
};
use coracle_protocol::sandbox::{
    Answer, Failed, Reason,
    process::{Attach, Exec, Exited, Process, Processes as List, Resize, Signal as SignalTo, Started, Streams},
};
use rustix::{
    io::ioctl_fionbio,
    process::{Gid, Resource, Rlimit, Signal, Uid, getrlimit, setrlimit},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Processes that there may be at once, with those that have ended and nobody waited for.
const MOST: usize = 8192;

/// Processes that have ended and nobody waited for; the oldest are forgotten.
const MOST_ENDED: usize = 1024;

/// Bytes that may wait in a pipe, so that a process does not stop for each piece that is passed on.
const PIPE: usize = 512 << 10;

/// Where programs are looked for unless the host says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All processes.
pub(super) struct Processes {
    children: Children,
    relay: Relay,
    /// What processes may have, while the agent itself has a descriptor for each stream of each of them.
    open_files: Rlimit,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    last: u64,
    processes: BTreeMap<u64, Known>,
}

struct Known {
    program: String,
    running: Running,
    terminal: Option<OwnedFd>,
    ended: Option<Exited>,
    waiting: Vec<Asker>,
    keep: bool,
    stdin: Option<OwnedFd>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

/// An output that nobody is connected to.
struct Output {
    from: OwnedFd,
    /// What was read from it and nobody took.
    first: Vec<u8>,
}

/// Our ends of a new process's streams.
#[derive(Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// Which output.
#[derive(Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

impl Table {
    fn known(&mut self, process: u64) -> Result<&mut Known, Failed> {
        self.processes
            .get_mut(&process)
            .ok_or_else(|| failure(Reason::NotFound, format!("there is no process {process}")))
    }

    /// Makes room for one more.
    fn make_room(&mut self) -> Result<(), Failed> {
        let ended = |known: &Known| known.ended.is_some();
        if self.processes.values().filter(|known| ended(known)).count() > MOST_ENDED {
            let oldest = self.processes.iter().find(|(_, known)| ended(known)).map(|(id, _)| *id);
            oldest.and_then(|id| self.processes.remove(&id));
        }
        if self.processes.len() >= MOST {
            return Err(failure(
                Reason::TooMany,
                format!("there are {MOST} processes already: wait for some"),
            ));
        }
        Ok(())
    }
}

impl Known {
    fn output(&mut self, which: Which) -> &mut Option<Output> {
        match which {
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Processes {
    pub(super) fn new(relay: Relay) -> io::Result<Self> {
        let open_files = getrlimit(Resource::Nofile);
        // Four descriptors or more for each process.
        let most = Some(65_536);
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: most,
                maximum: most,
            },
        );
        Ok(Self {
            children: Children::new()?,
            relay,
            open_files,
            table: Arc::default(),
        })
    }

    pub(super) fn exec(&self, exec: Exec) -> Reply {
        let mut command = Self::command(&exec)?;
        let identity = exec.user.as_deref().map(Identity::find).transpose()?;
        if let Some(identity) = &identity {
            command.env("HOME", &identity.home);
        }
        command.envs(exec.env.iter().map(|(name, value)| (name, value)));
        if exec.terminal.is_some() && exec.streams.stderr.is_some() {
            return Err(invalid(
                "a process on a terminal has no standard error of its own: leave out its token",
            ));
        }
        let streams = dial(exec.streams)?;
        let mut ends = Ends::default();
        if let Some(size) = exec.terminal {
            let open = terminal::open(size.rows, size.columns).and_then(|ours| attach_terminal(&mut command, ours));
            ends = open.map_err(refused("open a terminal"))?;
        } else {
            let kind = |token: bool| if token { Stdio::piped() } else { Stdio::null() };
            let Streams { stdin, stdout, stderr } = exec.streams;
            command.stdin(kind(exec.keep_streams || stdin.is_some()));
            command.stdout(kind(exec.keep_streams || stdout.is_some()));
            command.stderr(kind(exec.keep_streams || stderr.is_some()));
        }
        let manner = Manner {
            terminal: exec.terminal.is_some(),
            group: Group::Outlives,
            credentials: identity.map(|identity| Credentials {
                uid: Uid::from_raw(identity.uid),
                gid: Gid::from_raw(identity.gid),
                groups: identity.groups.into_iter().map(Gid::from_raw).collect(),
            }),
            open_files: Some(self.open_files),
        };
        self.start(&exec, command, manner, (ends, streams))
    }

    /// The program with arguments, variables and place.
    fn command(exec: &Exec) -> Result<Command, Failed> {
        let Some((program, arguments)) = exec.argv.split_first() else {
            return Err(invalid("there is no program: give argv at least one element"));
        };
        if let Some((name, _)) = exec.env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
            return Err(invalid(format!("{name:?} is no name of a variable")));
        }
        let cwd = exec.cwd.as_deref().unwrap_or("/");
        // Otherwise it could not be told from a program that is missing.
        if !Path::new(cwd).is_dir() {
            return Err(failure(
                Reason::NotFound,
                format!("the working directory {cwd} is no folder"),
            ));
        }
        let mut command = Command::new(program);
        command.args(arguments).current_dir(cwd).env_clear();
        command.env("PATH", PATH).env("HOME", "/root");
        Ok(command)
    }

    fn start(
        &self,
        exec: &Exec,
        mut command: Command,
        manner: Manner,
        (mut ends, streams): (Ends, [Option<OwnedFd>; 3]),
    ) -> Reply {
        let mut table = lock(&self.table);
        table.make_room()?;
        table.last += 1;
        let process = table.last;
        let program = exec.argv.first().cloned().unwrap_or_default();
        let finish = Arc::clone(&self.table);
        let on_end = Box::new(move |ending| finish_process(&finish, process, ending));
        let started = self.children.start(&mut command, manner, on_end);
        let (child, running) = started.map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let failed = refused(format!("run {program:?}"))(error);
            Failed {
                exit_code: Some(code),
                ..failed
            }
        })?;
        // Its ends of the terminal.
        drop(command);
        let pid = running.pid();
        if ends.terminal.is_none() {
            ends = pipes(child).map_err(refused("prepare pipes"))?;
        }
        let output = |from: OwnedFd| Output { from, first: vec![] };
        table.processes.insert(
            process,
            Known {
                program,
                running,
                terminal: ends.terminal,
                ended: None,
                waiting: vec![],
                keep: exec.keep_streams,
                stdin: ends.stdin,
                stdout: ends.stdout.map(output),
                stderr: ends.stderr.map(output),
            },
        );
        let known = table.known(process)?;
        self.connect(process, known, streams);
        if !exec.keep_streams {
            // What nobody asked for leads nowhere.
            (known.stdin, known.stdout, known.stderr) = (None, None, None);
        }
        Ok(Answer::Started(Started { process, pid }))
    }

    /// Joins what is free with the streams of the host.
    fn connect(&self, process: u64, known: &mut Known, [stdin, stdout, stderr]: [Option<OwnedFd>; 3]) {
        if let Some(from) = stdin
            && let Some(to) = known.stdin.take()
        {
            let at_end = match (&known.terminal, known.keep) {
                (None, _) => AtEnd::Close,
                (Some(_), false) => AtEnd::Type,
                // Whoever leaves a terminal that is kept ends nothing.
                (Some(_), true) => AtEnd::Keep,
            };
            let table = Arc::clone(&self.table);
            let again = move |ended: Ended| {
                if let Ok(known) = lock(&table).known(process)
                    && at_end == AtEnd::Keep
                {
                    known.stdin = Some(ended.to);
                }
            };
            self.relay.add(Pair {
                from,
                to,
                first: vec![],
                at_end,
                one_way: false,
                on_end: (at_end == AtEnd::Keep).then(|| Box::new(again) as _),
            });
        }
        for (which, stream) in [(Which::Stdout, stdout), (Which::Stderr, stderr)] {
            if let Some(to) = stream
                && let Some(output) = known.output(which).take()
            {
                self.connect_output(process, which, known.keep, (output, to));
            }
        }
    }

    fn connect_output(&self, process: u64, which: Which, keep: bool, (output, to): (Output, OwnedFd)) {
        let table = Arc::clone(&self.table);
        let again = move |ended: Ended| {
            if let Ok(known) = lock(&table).known(process)
                && ended.broken
            {
                *known.output(which) = Some(Output {
                    from: ended.from,
                    first: ended.rest,
                });
            }
        };
        self.relay.add(Pair {
            from: output.from,
            to,
            first: output.first,
            at_end: AtEnd::Shutdown,
            one_way: true,
            on_end: keep.then(|| Box::new(again) as _),
        });
    }

    /// Answers when the process has ended.
    pub(super) fn wait(&self, process: u64, asker: Asker) {
        let mut table = lock(&self.table);
        match table.known(process) {
            Err(failed) => {
                asker.answer(Err(failed));
            }
            Ok(known) => match known.ended {
                None => known.waiting.push(asker),
                Some(exited) => {
                    if asker.answer(Ok(Answer::Exited(exited))) {
                        table.processes.remove(&process);
                    }
                }
            },
        }
    }

    pub(super) fn signal(&self, wish: SignalTo) -> Reply {
        let mut table = lock(&self.table);
        let known = table.known(wish.process)?;
        let signal = Signal::from_named_raw(wish.signal).ok_or_else(|| {
            invalid(format!(
                "there is no signal {}: give a number from 1 to 31",
                wish.signal
            ))
        })?;
        if known.ended.is_some() {
            return Err(failure(Reason::NotFound, format!("process {} has ended", wish.process)));
        }
        let sent = if wish.group {
            known.running.signal_group(signal)
        } else {
            known.running.signal(signal)
        };
        sent.map_err(refused("send a signal"))?;
        Ok(DONE)
    }

    pub(super) fn resize(&self, wish: Resize) -> Reply {
        let mut table = lock(&self.table);
        let terminal = table.known(wish.process)?.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| invalid(format!("process {} has no terminal", wish.process)))?;
        terminal::set_size(terminal, wish.window.rows, wish.window.columns).map_err(refused("resize a terminal"))?;
        Ok(DONE)
    }

    pub(super) fn attach(&self, wish: Attach) -> Reply {
        let Attach { process, streams } = wish;
        let check = |known: &mut Known| {
            let Streams { stdin, stdout, stderr } = streams;
            let busy = [
                (stdin.is_some() && known.stdin.is_none(), "input"),
                (stdout.is_some() && known.stdout.is_none(), "output"),
                (stderr.is_some() && known.stderr.is_none(), "error"),
            ];
            match busy.iter().find(|(busy, _)| *busy) {
                Some((_, name)) => Err(failure(
                    Reason::Busy,
                    format!("standard {name} of process {process} is connected, has ended or was not kept"),
                )),
                None => Ok(()),
            }
        };
        check(lock(&self.table).known(process)?)?;
        let streams = dial(streams)?;
        let mut table = lock(&self.table);
        let known = table.known(process)?;
        check(known)?;
        self.connect(process, known, streams);
        Ok(DONE)
    }

    pub(super) fn list(&self) -> Answer {
        let table = lock(&self.table);
        let processes = table.processes.iter().map(|(process, known)| Process {
            process: *process,
            pid: known.running.pid(),
            program: known.program.clone(),
            exited: known.ended,
        });
        Answer::Processes(List {
            processes: processes.collect(),
        })
    }
}

fn finish_process(table: &Mutex<Table>, process: u64, ending: Ending) {
    let mut table = lock(table);
    let Ok(known) = table.known(process) else { return };
    let exited = Exited {
        code: ending.code,
        signal: ending.signal,
    };
    known.ended = Some(exited);
    let mut heard = false;
    for asker in std::mem::take(&mut known.waiting) {
        heard |= asker.answer(Ok(Answer::Exited(exited)));
    }
    if heard {
        table.processes.remove(&process);
    }
}

fn dial(streams: Streams) -> Result<[Option<OwnedFd>; 3], Failed> {
    let Streams { stdin, stdout, stderr } = streams;
    vsock::streams([stdin, stdout, stderr]).map_err(refused("open the streams"))
}

fn attach_terminal(command: &mut Command, (ours, theirs): (OwnedFd, OwnedFd)) -> io::Result<Ends> {
    command.stdin(theirs.try_clone()?);
    command.stdout(theirs.try_clone()?).stderr(theirs);
    ioctl_fionbio(&ours, true)?;
    Ok(Ends {
        stdin: Some(ours.try_clone()?),
        stdout: Some(ours.try_clone()?),
        stderr: None,
        terminal: Some(ours),
    })
}

fn pipes(child: Child) -> io::Result<Ends> {
    let ends = Ends {
        stdin: child.stdin.map(OwnedFd::from),
        stdout: child.stdout.map(OwnedFd::from),
        stderr: child.stderr.map(OwnedFd::from),
        terminal: None,
    };
    for end in [&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten() {
        ioctl_fionbio(end, true)?;
        // A smaller pipe serves too.
        let _ = rustix::pipe::fcntl_setpipe_size(end.as_fd(), PIPE);
    }
    Ok(ends)
}
