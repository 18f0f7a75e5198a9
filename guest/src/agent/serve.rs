//! One control connection: its requests, from the first frame to the last.
use super::{
    AgentError, End, Start, files, machine, network,
    outbox::{Asker, DONE, Outbox, failure, invalid, refused},
    ports,
    processes::Processes,
    relay::Relay,
    tar, vsock, watch,
};
use coracle_protocol::sandbox::{
    GENERATION, Hello, Notice, Reason, Request, capability,
    wire::{self, Frame, Kind, WireError},
};
use std::{
    fs::File,
    io::BufReader,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Requests that may be under way on threads of their own.
const MOST_JOBS: usize = 64;

/// What the agent has, whatever becomes of connections.
pub(super) struct Agent {
    processes: Processes,
    relay: Relay,
    jobs: Arc<AtomicUsize>,
}

/// Counts a job for as long as it exists.
struct Job(Arc<AtomicUsize>);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const CAPABILITIES: &[&str] = &[
    capability::EXEC,
    capability::FILES,
    capability::WATCH,
    capability::TAR,
    capability::MOUNT,
    capability::NETWORK,
    capability::FREEZE,
    capability::SEEDS,
    capability::PORTS,
    capability::POWER,
];

impl Agent {
    pub(super) fn new() -> Result<Self, AgentError> {
        let relay = Relay::new().map_err(|error| AgentError::Step("start the relay", error))?;
        Ok(Self {
            processes: Processes::new(relay.clone()).map_err(|error| AgentError::Step("start the reaper", error))?,
            relay,
            jobs: Arc::default(),
        })
    }

    /// Dials and serves until the connection ends, or the machine shall.
    pub(super) fn connection(&self, start: &Start) -> Result<Option<End>, WireError> {
        let mut connection = File::from(vsock::control(start.token)?);
        wire::write(&mut connection, 0, Kind::Notice, &Notice::Hello(hello(start)))?;
        let outbox = Outbox::new(connection.try_clone()?);
        let mut from = BufReader::new(connection);
        while let Some(frame) = wire::read(&mut from)? {
            if let Some(end) = self.take(&frame, &outbox) {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn take(&self, frame: &Frame, outbox: &Outbox) -> Option<End> {
        let asker = outbox.asker(frame.number);
        match frame.message::<Request>() {
            Ok(Request::Power(wish)) => return Some(machine::power(wish, &asker)),
            Ok(request) => self.serve(request, asker),
            Err(error) => {
                let text = format!("the agent does not know this request: {error}");
                asker.answer(Err(failure(Reason::Unsupported, text)));
            }
        }
        None
    }

    fn serve(&self, request: Request, asker: Asker) {
        let reply = match request {
            Request::Wait(wish) => return self.processes.wait(wish.process, asker),
            Request::Exec(wish) => self.processes.exec(wish),
            Request::Signal(wish) => self.processes.signal(wish),
            Request::Resize(wish) => self.processes.resize(wish),
            Request::Attach(wish) => self.processes.attach(wish),
            Request::Processes(_) => Ok(self.processes.list()),
            Request::Dns(wish) => network::dns(&wish),
            Request::Hosts(wish) => network::hosts(&wish),
            Request::Links(_) => network::links(),
            Request::Link(wish) => network::link(&wish),
            Request::Route(wish) => network::route(&wish),
            Request::Ports(_) => ports::list(),
            Request::Entropy(wish) => machine::entropy(&wish),
            Request::Clock(wish) => machine::clock(wish),
            request => return self.serve_slowly(request, asker),
        };
        asker.answer(reply);
    }

    /// What waits for disks, for the network or for the host.
    fn serve_slowly(&self, request: Request, asker: Asker) {
        let relay = self.relay.clone();
        self.job(asker, move |asker| {
            let reply = match request {
                Request::Stat(wish) => files::stat(wish),
                Request::List(wish) => files::list(wish, asker),
                Request::Read(wish) => files::read(wish),
                Request::Write(wish) => files::write(wish),
                Request::Mkdir(wish) => files::mkdir(wish),
                Request::Rename(wish) => files::rename(wish),
                Request::Remove(wish) => files::remove(wish),
                Request::Watch(wish) => {
                    watch::watch(&wish, asker);
                    return;
                }
                Request::Pack(wish) => tar::pack(&wish),
                Request::Unpack(wish) => tar::unpack(&wish),
                Request::Mount(wish) => machine::mount(wish),
                Request::Umount(wish) => machine::umount(wish),
                Request::Freeze(wish) => machine::freeze(&wish.path, true),
                Request::Thaw(wish) => machine::freeze(&wish.path, false),
                Request::Forward(wish) => ports::forward(&wish, &relay),
                Request::Sync(_) => {
                    rustix::fs::sync();
                    Ok(DONE)
                }
                // Those have been served already.
                _ => Err(invalid("the agent does not serve this request here")),
            };
            asker.answer(reply);
        });
    }

    /// Does what may take long on a thread of its own.
    fn job(&self, asker: Asker, work: impl FnOnce(&Asker) + Send + 'static) {
        let job = Job(Arc::clone(&self.jobs));
        if self.jobs.fetch_add(1, Ordering::Relaxed) >= MOST_JOBS {
            let text = format!("{MOST_JOBS} requests are under way already: wait for some");
            asker.answer(Err(failure(Reason::TooMany, text)));
            return;
        }
        let mine = asker.clone();
        let run = move || {
            let _job = job;
            work(&mine);
        };
        if let Err(error) = thread::Builder::new().stack_size(256 << 10).spawn(run) {
            asker.answer(Err(refused("start a thread")(error)));
        }
    }
}

fn hello(start: &Start) -> Hello {
    Hello {
        generation: GENERATION,
        capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
        timings: start.timings,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
