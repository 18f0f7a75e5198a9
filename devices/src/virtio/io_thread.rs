//! Threads that run workers. Which worker runs on which is the builder's choice, never the device's.
use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId};
use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// A thread with an event loop. Dropping it ends and joins the thread.
pub struct IoThread {
    remote: RemoteEndpoint<Subscriber>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread without workers.
    pub fn spawn(name: &str) -> io::Result<Self> {
        let mut events = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        let (remote, stop) = (events.remote_endpoint(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if let Err(error) = events.run() {
                    log::error!("an I/O thread ends: {error}");
                    return;
                }
            }
        })?;
        Ok(Self {
            remote,
            stop,
            thread: Some(thread),
        })
    }

    /// Moves a worker onto the thread; when this returns, it has been initialised there.
    pub(super) fn run<W: MutEventSubscriber + Send + 'static>(&self, worker: W) -> io::Result<Running<W>> {
        let worker = Arc::new(Mutex::new(worker));
        let subscriber: Subscriber = worker.clone();
        let id = self
            .remote
            .call_blocking(move |events| Ok::<_, event_manager::Error>(events.add_subscriber(subscriber)))
            .map_err(io::Error::other)?;
        Ok(Running {
            id,
            worker,
            remote: self.remote.clone(),
        })
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoThread").finish_non_exhaustive()
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A thread that has ended by itself hears nothing.
        let _ = self.remote.kick();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("an I/O thread panicked");
        }
    }
}

/// A worker that is out on a thread.
pub(super) struct Running<W> {
    id: SubscriberId,
    worker: Arc<Mutex<W>>,
    remote: RemoteEndpoint<Subscriber>,
}

impl<W> Running<W> {
    /// Takes the worker off its thread; when this returns, nothing touches its rings.
    pub(super) fn recall(self) -> io::Result<W> {
        let id = self.id;
        self.remote
            .call_blocking(move |events| events.remove_subscriber(id).map(drop))
            .map_err(io::Error::other)?;
        let worker = Arc::into_inner(self.worker).ok_or_else(|| io::Error::other("a worker is still shared"))?;
        Ok(worker.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
