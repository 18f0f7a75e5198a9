//! Connects clients with the agent. One thread accepts each kind, one serves each connection; each copies bytes and
//! knows nothing of what they mean.
//!
//! Lock order: each lock is held for one statement or one frame, none while another is taken.
use super::super::wire::{Answer, Call, Status};
use super::Event;
use coracle_protocol::{
    agent::{FromAgent, Hello, Order, Token, VERSION},
    frame,
};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// A stranger on the agent's port has so long to prove itself, a client to say what it wants.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// The agent dials back within this.
const DIAL_LIMIT: Duration = Duration::from_secs(25);

pub(super) struct Switch {
    token: Token,
    status: Status,
    idle: Duration,
    events: Sender<Event>,
    control: Mutex<Option<TcpStream>>,
    claimed: AtomicBool,
    pings: AtomicUsize,
    dialling: Mutex<HashMap<Token, Sender<TcpStream>>>,
    clients: AtomicUsize,
    times: Mutex<Times>,
}

struct Times {
    boot: Duration,
    ready: Instant,
    /// The last moment when a client was connected.
    used: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    pub(super) fn new(token: Token, status: Status, idle: Duration, events: Sender<Event>) -> Self {
        let now = Instant::now();
        Self {
            token,
            status,
            idle,
            events,
            control: Mutex::new(None),
            claimed: AtomicBool::new(false),
            pings: AtomicUsize::new(0),
            dialling: Mutex::new(HashMap::new()),
            clients: AtomicUsize::new(0),
            times: Mutex::new(Times {
                boot: Duration::ZERO,
                ready: now,
                used: now,
            }),
        }
    }

    /// The host came up after so long.
    pub(super) fn ready(&self, boot: Duration) {
        let now = Instant::now();
        *lock(&self.times) = Times {
            boot,
            ready: now,
            used: now,
        };
    }

    /// How long there has been no client; `None` while there is one.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        (self.clients.load(Ordering::Acquire) == 0).then(|| lock(&self.times).used.elapsed())
    }

    /// Asks the agent for a sign of life.
    pub(super) fn ping(&self) {
        let number = self.pings.fetch_add(1, Ordering::Relaxed) as u64;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64);
        let _ = self.order(&Order::Ping { number, now });
    }

    fn order(&self, order: &Order) -> Result<(), String> {
        match lock(&self.control).as_mut() {
            Some(control) => frame::write(control, order).map_err(|e| e.to_string()),
            None => Err("its agent is not connected".to_string()),
        }
    }

    /// Listens for the agent on a thread of its own.
    pub(super) fn accept_agent(this: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let this = Arc::clone(this);
        spawn("agent", move || {
            for connection in listener.incoming().flatten() {
                let this = Arc::clone(&this);
                // Without a thread the connection is dropped, and whoever waits for it is told after a while.
                let _ = spawn("agent's channel", move || this.greet(connection));
            }
        })
    }

    fn greet(&self, mut connection: TcpStream) {
        let _ = connection.set_nodelay(true);
        let _ = connection.set_read_timeout(Some(HELLO_LIMIT));
        let hello = frame::read(&mut connection);
        let _ = connection.set_read_timeout(None);
        match hello {
            Ok(Some(Hello::Control { version, token })) if version == VERSION && token == self.token => {
                if !self.claimed.swap(true, Ordering::AcqRel) {
                    self.listen_to_agent(connection);
                }
            }
            Ok(Some(Hello::Channel { token })) => {
                let waiting = lock(&self.dialling).remove(&token);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(connection);
                }
            }
            // A stranger.
            Ok(_) | Err(_) => {}
        }
    }

    fn listen_to_agent(&self, mut connection: TcpStream) {
        let Ok(ours) = connection.try_clone() else { return };
        // An agent that no longer reads must not stop the keeper.
        let _ = ours.set_write_timeout(Some(Duration::from_secs(5)));
        *lock(&self.control) = Some(ours);
        let _ = self.events.send(Event::Ready);
        while let Ok(Some(FromAgent::Pong { .. })) = frame::read(&mut connection) {
            let _ = self.events.send(Event::Pong);
        }
        let _ = self.events.send(Event::AgentGone);
    }

    /// Listens for clients on a thread of its own.
    pub(super) fn accept_clients(this: &Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let this = Arc::clone(this);
        spawn("clients", move || {
            for connection in listener.incoming().flatten() {
                let this = Arc::clone(&this);
                let _ = spawn("client", move || this.serve(connection));
            }
        })
    }

    fn serve(&self, mut client: UnixStream) {
        let _ = client.set_read_timeout(Some(HELLO_LIMIT));
        let call = frame::read(&mut client);
        let _ = client.set_read_timeout(None);
        let Ok(Some(call)) = call else { return };
        match call {
            Call::Status => {
                let _ = frame::write(&mut client, &Answer::Status(self.status()));
            }
            Call::Down => {
                let _ = frame::write(&mut client, &Answer::GoingDown);
                let _ = self.events.send(Event::Down("`coracle host down` was called"));
                // The end of the process closes the connection, which tells the client.
                let _ = client.read(&mut [0]);
            }
            Call::Open => {
                self.clients.fetch_add(1, Ordering::AcqRel);
                self.connect(client);
                lock(&self.times).used = Instant::now();
                self.clients.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    fn connect(&self, mut client: UnixStream) {
        match self.dial() {
            Ok(agent) => {
                if frame::write(&mut client, &Answer::Opened).is_ok() {
                    splice(client, agent);
                }
            }
            Err(reason) => {
                let _ = frame::write(&mut client, &Answer::Refused(reason));
            }
        }
    }

    /// Has the agent dial, and waits for it.
    fn dial(&self) -> Result<TcpStream, String> {
        let token = super::random_token().map_err(|e| e.to_string())?;
        let (send, dialled) = channel();
        lock(&self.dialling).insert(token.clone(), send);
        let outcome = self.order(&Order::Dial { token: token.clone() }).and_then(|()| {
            dialled
                .recv_timeout(DIAL_LIMIT)
                .map_err(|_| format!("its agent did not call back within {} seconds", DIAL_LIMIT.as_secs()))
        });
        lock(&self.dialling).remove(&token);
        outcome
    }

    fn status(&self) -> Status {
        let times = lock(&self.times);
        let unused = self.idle.saturating_sub(times.used.elapsed());
        let clients = self.clients.load(Ordering::Acquire);
        Status {
            up_seconds: times.ready.elapsed().as_secs(),
            boot_ms: times.boot.as_millis() as u64,
            clients,
            idle_seconds_left: if clients > 0 { self.idle } else { unused }.as_secs(),
            ..self.status.clone()
        }
    }
}

/// Copies both ways until either side ends, then ends the other.
fn splice(client: UnixStream, agent: TcpStream) {
    let close = || {
        let _ = client.shutdown(Shutdown::Both);
        let _ = agent.shutdown(Shutdown::Both);
    };
    thread::scope(|threads| {
        threads.spawn(|| {
            copy(&mut &client, &mut &agent);
            close();
        });
        copy(&mut &agent, &mut &client);
        close();
    });
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut bytes = vec![0; 128 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(bytes.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(|_| ())
}
