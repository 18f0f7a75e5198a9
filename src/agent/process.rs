//! Processes in the guest.
use super::{
    Agent, AgentError,
    calls::{Calls, done, random_token},
};
use coracle_protocol::sandbox::{
    Answer, Request, Token,
    process::{Attach, Exec, Exited, List, Process as Status, Resize, Signal, Streams, Wait, Window},
};
use std::{
    collections::HashMap,
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

/// A process to start: a program with arguments, no input, and both outputs to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program, looked up in `PATH` unless it has a slash, and its arguments.
    pub argv: Vec<String>,
    /// Variables beyond `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` without one.
    pub cwd: Option<String>,
    /// `user`, `user:group`, or numbers in their place; root without one.
    pub user: Option<String>,
    /// A terminal of this size in place of pipes. There is no standard error of its own then.
    pub terminal: Option<Window>,
    /// Which streams the host wants; the others lead nowhere.
    pub stdin: bool,
    /// As above.
    pub stdout: bool,
    /// As above.
    pub stderr: bool,
    /// Its streams stay when the host lets go of them, so that it can be attached to again.
    pub keep_streams: bool,
}

impl ExecSpec {
    /// A program with arguments.
    pub fn new<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            stdout: true,
            stderr: true,
            ..Self::default()
        }
    }

    /// With standard input.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// On a terminal.
    #[must_use]
    pub fn on_terminal(self, window: Window) -> Self {
        Self {
            terminal: Some(window),
            stdin: true,
            stderr: false,
            ..self
        }
    }
}

/// A process that was started. Dropping it leaves it alone, but for its streams.
pub struct Process {
    calls: Arc<Calls>,
    id: u64,
    pid: Option<i32>,
    /// Leads to standard input. Shutting it down for writing, or dropping it, is its end.
    pub stdin: Option<UnixStream>,
    /// Comes from standard output, or from the terminal.
    pub stdout: Option<UnixStream>,
    /// Comes from standard error.
    pub stderr: Option<UnixStream>,
}

/// All that a process wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exited,
}

/// Tokens for those streams that are wanted.
fn streams(stdin: bool, stdout: bool, stderr: bool) -> (Streams, Vec<Token>) {
    let [stdin, stdout, stderr] = [stdin, stdout, stderr].map(|wanted| wanted.then(random_token));
    let tokens = [stdin, stdout, stderr].into_iter().flatten().collect();
    (Streams { stdin, stdout, stderr }, tokens)
}

impl Agent {
    /// Starts a process. [`AgentError::exit_code`] of the error is 127 if there is no such program and 126 if it cannot
    /// be run.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Process, AgentError> {
        let (streams, tokens) = streams(spec.stdin, spec.stdout, spec.stderr && spec.terminal.is_none());
        let request = Request::Exec(Exec {
            argv: spec.argv.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            terminal: spec.terminal,
            streams,
            keep_streams: spec.keep_streams,
        });
        let (answer, came) = self.calls.send(&request, &tokens)?.answer_with_streams()?;
        let Answer::Started(started) = answer else {
            return Err(AgentError::Unexpected);
        };
        Ok(self.process((started.process, Some(started.pid)), streams, came))
    }

    /// Connects to the streams of a process that was started with `keep_streams`. Fails while somebody else is connected.
    pub fn attach(&self, process: u64, [stdin, stdout, stderr]: [bool; 3]) -> Result<Process, AgentError> {
        let (streams, tokens) = streams(stdin, stdout, stderr);
        let request = Request::Attach(Attach { process, streams });
        let (answer, came) = self.calls.send(&request, &tokens)?.answer_with_streams()?;
        done(answer)?;
        Ok(self.process((process, None), streams, came))
    }

    /// All processes that were started and not waited for.
    pub fn processes(&self) -> Result<Vec<Status>, AgentError> {
        match self.calls.ask(&Request::Processes(List {}))? {
            Answer::Processes(list) => Ok(list.processes),
            _ => Err(AgentError::Unexpected),
        }
    }

    fn process(
        &self,
        (id, pid): (u64, Option<i32>),
        streams: Streams,
        mut came: HashMap<Token, UnixStream>,
    ) -> Process {
        let mut take = |token: Option<Token>| token.and_then(|token| came.remove(&token));
        Process {
            calls: Arc::clone(&self.calls),
            id,
            pid,
            stdin: take(streams.stdin),
            stdout: take(streams.stdout),
            stderr: take(streams.stderr),
        }
    }
}

impl Process {
    /// Its name for [`Agent::attach`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its number in the guest, if it was started here.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Waits for its end, for as long as the guest lives. The agent forgets it then; output may still be in the streams.
    pub fn wait(&self) -> Result<Exited, AgentError> {
        let call = self.calls.send(&Request::Wait(Wait { process: self.id }), &[])?;
        match call.answer(None)? {
            Answer::Exited(exited) => Ok(exited),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Sends it a signal, by its Linux number.
    pub fn signal(&self, signal: i32) -> Result<(), AgentError> {
        self.send_signal(signal, false)
    }

    /// Sends a signal to all of its process group.
    pub fn signal_group(&self, signal: i32) -> Result<(), AgentError> {
        self.send_signal(signal, true)
    }

    fn send_signal(&self, signal: i32, group: bool) -> Result<(), AgentError> {
        self.calls.tell(&Request::Signal(Signal {
            process: self.id,
            signal,
            group,
        }))
    }

    /// Tells its terminal a new size.
    pub fn resize(&self, window: Window) -> Result<(), AgentError> {
        self.calls.tell(&Request::Resize(Resize {
            process: self.id,
            window,
        }))
    }

    /// Ends its input, reads its outputs to their ends and waits for it.
    pub fn output(mut self) -> Result<Output, AgentError> {
        drop(self.stdin.take());
        let stderr = self.stderr.take();
        let reading = thread::Builder::new()
            .name("agent-stderr".into())
            .spawn(|| read_all(stderr));
        let reading = reading.map_err(AgentError::Thread)?;
        let stdout = read_all(self.stdout.take());
        let stderr = reading.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        Ok(Output {
            stdout: stdout.map_err(AgentError::Stream)?,
            stderr: stderr.map_err(AgentError::Stream)?,
            exit: self.wait()?,
        })
    }
}

fn read_all(stream: Option<UnixStream>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
