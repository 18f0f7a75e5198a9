//! Requests under way: each has a number, and what arrives for it goes to whoever waits.
//!
//! A thread of its own reads answers until the connection ends.
use super::{AgentError, doors::Doors};
use coracle_protocol::sandbox::{
    Answer, Done, Hello, Notice, Request, Token,
    wire::{self, Kind},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    io::BufReader,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How long an agent may think about what takes no time. An emulated guest on a busy machine is slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What may wait for the owner of a call; a guest that sends more has to wait itself.
const MOST_ARRIVALS: usize = 64;

/// Something for a call.
pub(super) enum Arrival {
    Part(Answer),
    Last(Answer),
    Stream(Token, UnixStream),
}

/// The calls of one connection.
pub(super) struct Calls {
    doors: Arc<Doors>,
    writer: Mutex<UnixStream>,
    last: AtomicU32,
    /// `None` once the connection has ended.
    open: Mutex<Option<HashMap<u32, SyncSender<Arrival>>>>,
}

/// A request that was sent. Dropping it gives up waiting for its answer.
pub(super) struct Call {
    calls: Arc<Calls>,
    number: u32,
    tokens: Vec<Token>,
    arrivals: Receiver<Arrival>,
    /// A last answer that came before its stream.
    early: RefCell<Option<Answer>>,
}

impl Calls {
    /// Waits for an agent and its hello.
    pub(super) fn accept(doors: &Arc<Doors>, timeout: Duration) -> Result<(Arc<Self>, Hello), AgentError> {
        let until = Instant::now() + timeout;
        let connection = doors.agent(timeout)?;
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(1));
        connection.set_read_timeout(Some(left)).map_err(AgentError::Stream)?;
        let writer = connection.try_clone().map_err(AgentError::Stream)?;
        let mut reader = BufReader::new(connection);
        let frame = wire::read(&mut reader)?.ok_or(AgentError::Gone)?;
        let Notice::Hello(hello) = frame.message()?;
        reader.get_ref().set_read_timeout(None).map_err(AgentError::Stream)?;
        let calls = Arc::new(Self {
            doors: Arc::clone(doors),
            writer: Mutex::new(writer),
            last: AtomicU32::new(0),
            open: Mutex::new(Some(HashMap::new())),
        });
        let mine = Arc::clone(&calls);
        thread::Builder::new()
            .name("agent-answers".into())
            .spawn(move || mine.read(reader))
            .map_err(AgentError::Thread)?;
        Ok((calls, hello))
    }

    fn open(&self) -> MutexGuard<'_, Option<HashMap<u32, SyncSender<Arrival>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands answers out until there are no more.
    fn read(&self, mut from: BufReader<UnixStream>) {
        loop {
            match wire::read(&mut from) {
                Ok(Some(frame)) => match frame.message() {
                    Ok(answer) => self.hand_out(frame.number, frame.kind, answer),
                    Err(error) => {
                        log::warn!("the guest's agent is no longer listened to: {error}");
                        break;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    log::debug!("the guest's agent is gone: {error}");
                    break;
                }
            }
        }
        self.hang_up();
        // Whoever waits sees its sender go.
        *self.open() = None;
    }

    /// Waits for a call that has not taken what came before. Whoever sends more than was asked for holds up itself.
    fn hand_out(&self, number: u32, kind: Kind, answer: Answer) {
        let mut open = self.open();
        let Some(calls) = open.as_mut() else { return };
        let (sender, arrival) = match kind {
            Kind::Part => (calls.get(&number).cloned(), Arrival::Part(answer)),
            Kind::Answer => (calls.remove(&number), Arrival::Last(answer)),
            Kind::Request | Kind::Notice => return,
        };
        drop(open);
        // An answer that nobody waits for any more is none the worse for it.
        let _ = sender.map(|sender| sender.send(arrival));
    }

    /// Ends the connection.
    pub(super) fn hang_up(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writer.shutdown(Shutdown::Both);
    }

    /// Sends a request, which may name streams by these tokens.
    pub(super) fn send(self: &Arc<Self>, request: &Request, tokens: &[Token]) -> Result<Call, AgentError> {
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let frame = wire::encode(number, Kind::Request, request)?;
        let (sender, arrivals) = sync_channel(MOST_ARRIVALS);
        for &token in tokens {
            let sender = sender.clone();
            let then = move |stream| {
                let _ = sender.try_send(Arrival::Stream(token, stream));
            };
            self.doors.expect(token, Box::new(then));
        }
        let call = Call {
            calls: Arc::clone(self),
            number,
            tokens: tokens.to_vec(),
            arrivals,
            early: RefCell::default(),
        };
        self.open().as_mut().ok_or(AgentError::Gone)?.insert(number, sender);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        std::io::Write::write_all(&mut *writer, &frame).map_err(|_| AgentError::Gone)?;
        drop(writer);
        Ok(call)
    }

    /// Sends a request and waits for its one answer, which takes no time.
    pub(super) fn ask(self: &Arc<Self>, request: &Request) -> Result<Answer, AgentError> {
        self.send(request, &[])?.answer(Some(PATIENCE))
    }

    /// Sends a request to which there is nothing to answer.
    pub(super) fn tell(self: &Arc<Self>, request: &Request) -> Result<(), AgentError> {
        done(self.ask(request)?)
    }
}

/// Holds an answer to be the one that there is nothing to say.
pub(super) fn done(answer: Answer) -> Result<(), AgentError> {
    match answer {
        Answer::Done(Done {}) => Ok(()),
        _ => Err(AgentError::Unexpected),
    }
}

impl Call {
    /// The next thing for it. Without a limit it waits for as long as the guest lives.
    pub(super) fn next(&self, limit: Option<Duration>) -> Result<Arrival, AgentError> {
        let arrival = match limit {
            None => self.arrivals.recv().map_err(|_| AgentError::Gone)?,
            Some(limit) => self.arrivals.recv_timeout(limit).map_err(|error| match error {
                RecvTimeoutError::Timeout => AgentError::Silent(limit),
                RecvTimeoutError::Disconnected => AgentError::Gone,
            })?,
        };
        match arrival {
            Arrival::Last(Answer::Failed(failed)) => Err(AgentError::Refused(failed)),
            arrival => Ok(arrival),
        }
    }

    /// Its one stream. An answer that overtakes it is kept for later.
    pub(super) fn next_stream(&self, limit: Duration) -> Result<Option<UnixStream>, AgentError> {
        match self.next(Some(limit))? {
            Arrival::Stream(_, stream) => Ok(Some(stream)),
            Arrival::Last(answer) => {
                *self.early.borrow_mut() = Some(answer);
                match self.next(Some(limit))? {
                    Arrival::Stream(_, stream) => Ok(Some(stream)),
                    _ => Ok(None),
                }
            }
            Arrival::Part(_) => Ok(None),
        }
    }

    /// Its last answer; streams and parts before it are not for this call.
    pub(super) fn answer(&self, limit: Option<Duration>) -> Result<Answer, AgentError> {
        if let Some(answer) = self.early.take() {
            return Ok(answer);
        }
        match self.next(limit)? {
            Arrival::Last(answer) => Ok(answer),
            Arrival::Part(_) | Arrival::Stream(..) => Err(AgentError::Unexpected),
        }
    }

    /// Its last answer and all its streams, in whatever order they come.
    pub(super) fn answer_with_streams(&self) -> Result<(Answer, HashMap<Token, UnixStream>), AgentError> {
        let (mut answer, mut streams) = (None, HashMap::new());
        loop {
            if let Some(answer) = answer.take_if(|_| streams.len() == self.tokens.len()) {
                return Ok((answer, streams));
            }
            match self.next(Some(PATIENCE))? {
                Arrival::Last(last) => answer = Some(last),
                Arrival::Stream(token, stream) => {
                    streams.insert(token, stream);
                }
                Arrival::Part(_) => return Err(AgentError::Unexpected),
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for token in &self.tokens {
            self.calls.doors.forget(token);
        }
        if let Some(open) = self.calls.open().as_mut() {
            open.remove(&self.number);
        }
    }
}

/// A token that nobody can guess.
pub(super) fn random_token() -> Token {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(space) = bytes.get_mut(filled..).filter(|space| !space.is_empty()) {
        // So few bytes come at once, and without fail once the machine has booted.
        filled += rustix::rand::getrandom(space, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    Token(bytes)
}
