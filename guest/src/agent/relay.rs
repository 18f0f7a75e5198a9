//! Passes bytes from one descriptor to another, for any number of pairs, on one thread with epoll.
//!
//! Nothing is read from a source while its sink cannot take what was read before, so a slow reader slows its writer
//! down and nobody else, and at most one piece per pair is kept.
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::{Errno, read, write},
    net::{Shutdown, shutdown},
    termios::{LocalModes, SpecialCodeIndex, tcgetattr},
};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Bytes that are passed on at once.
const PIECE: usize = 256 << 10;

/// Pieces that a pair may pass on before it is another's turn.
const TURNS: usize = 4;

/// What the end of the source means for the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// A socket: no more is sent, the other direction goes on.
    Shutdown,
    /// A pipe: it is closed.
    Close,
    /// A terminal: the user types the end-of-file character.
    Type,
    /// Nothing.
    Keep,
}

/// A pair that has come to its end.
pub(super) struct Ended {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    /// What was read and the sink has not taken.
    pub(super) rest: Vec<u8>,
    /// The source has more, or may have: it was the sink that ended.
    pub(super) broken: bool,
}

/// Called on the relay's thread; must not block.
pub(super) type OnEnd = Box<dyn FnOnce(Ended) + Send>;

/// A pair. Neither end blocks, and each is of its own: no two pairs share a descriptor.
pub(super) struct Pair {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    /// What goes to the sink first.
    pub(super) first: Vec<u8>,
    pub(super) at_end: AtEnd,
    /// The other end of the sink sends nothing, so that its end means that it is gone.
    pub(super) one_way: bool,
    pub(super) on_end: Option<OnEnd>,
}

struct Shared {
    new: Mutex<Vec<Pair>>,
    wake: OwnedFd,
}

/// The thread's other side.
#[derive(Clone)]
pub(super) struct Relay(Arc<Shared>);

impl Relay {
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            new: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &shared.wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let mut worker = Worker {
            shared: Arc::clone(&shared),
            epoll,
            pairs: HashMap::new(),
            next: 1,
            piece: vec![0; PIECE],
        };
        thread::Builder::new()
            .name("relay".into())
            .stack_size(128 << 10)
            .spawn(move || worker.run())?;
        Ok(Self(shared))
    }

    pub(super) fn add(&self, pair: Pair) {
        self.0.new.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
        let _ = write(&self.0.wake, &1_u64.to_ne_bytes());
    }
}

/// The event of a new pair. Pairs have two each: even for the source, odd for the sink.
const WAKE: u64 = 0;

struct Worker {
    shared: Arc<Shared>,
    epoll: OwnedFd,
    pairs: HashMap<u64, Moving>,
    next: u64,
    piece: Vec<u8>,
}

struct Moving {
    pair: Pair,
    /// How much of `pair.first` the sink has taken.
    taken: usize,
    /// The source is watched; otherwise room in the sink is.
    reading: bool,
}

/// How far a pair got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// More may be there at once.
    Turn,
    /// Nothing to read.
    Empty,
    /// The sink is full.
    Full,
    /// The source has ended.
    End,
    /// The sink has ended.
    Broken,
}

impl Worker {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    eprintln!("coracle-guest: streams have stopped: {error}");
                    return;
                }
            }
            for event in &events {
                let epoll::Event { data, flags } = *event;
                match data.u64() {
                    WAKE => self.take_new(),
                    key => self.serve(key, flags),
                }
            }
        }
    }

    fn take_new(&mut self) {
        let _ = read(&self.shared.wake, &mut [0; 8]);
        let new = std::mem::take(&mut *self.shared.new.lock().unwrap_or_else(PoisonError::into_inner));
        for pair in new {
            let key = self.next * 2;
            self.next += 1;
            let sink = sink_flags(&pair, false);
            let added = epoll::add(
                &self.epoll,
                &pair.from,
                epoll::EventData::new_u64(key),
                epoll::EventFlags::IN,
            )
            .and_then(|()| epoll::add(&self.epoll, &pair.to, epoll::EventData::new_u64(key + 1), sink));
            let moving = Moving {
                pair,
                taken: 0,
                reading: true,
            };
            self.pairs.insert(key, moving);
            match added {
                // What it brings along goes now; its source may be silent for long.
                Ok(()) => self.go_on(key),
                Err(_) => self.end(key, Progress::Broken),
            }
        }
    }

    fn serve(&mut self, key: u64, flags: epoll::EventFlags) {
        let (pair, sink) = (key & !1, key & 1 == 1);
        let gone = epoll::EventFlags::ERR | epoll::EventFlags::HUP | epoll::EventFlags::RDHUP;
        if sink && flags.intersects(gone) {
            self.end(pair, Progress::Broken);
        } else {
            self.go_on(pair);
        }
    }

    fn go_on(&mut self, key: u64) {
        let Some(moving) = self.pairs.get_mut(&key) else { return };
        let mut progress = Progress::Turn;
        for _ in 0..TURNS {
            progress = moving.step(&mut self.piece);
            if progress != Progress::Turn {
                break;
            }
        }
        let reading = match progress {
            Progress::Turn | Progress::Empty => true,
            Progress::Full => false,
            Progress::End | Progress::Broken => return self.end(key, progress),
        };
        if reading == moving.reading {
            return;
        }
        moving.reading = reading;
        let (from, to) = (&moving.pair.from, &moving.pair.to);
        let flags = sink_flags(&moving.pair, !reading);
        let source = if reading {
            epoll::add(&self.epoll, from, epoll::EventData::new_u64(key), epoll::EventFlags::IN)
        } else {
            // Its end would be told again and again.
            epoll::delete(&self.epoll, from)
        };
        let changed = source.and_then(|()| epoll::modify(&self.epoll, to, epoll::EventData::new_u64(key + 1), flags));
        if changed.is_err() {
            self.end(key, Progress::Broken);
        }
    }

    fn end(&mut self, key: u64, progress: Progress) {
        let Some(Moving {
            mut pair,
            taken,
            reading,
        }) = self.pairs.remove(&key)
        else {
            return;
        };
        // A descriptor may live on elsewhere, so closing it is not enough.
        if reading {
            let _ = epoll::delete(&self.epoll, &pair.from);
        }
        let _ = epoll::delete(&self.epoll, &pair.to);
        if progress == Progress::End {
            pair.finish();
        }
        pair.first.drain(..taken);
        if let Some(on_end) = pair.on_end {
            on_end(Ended {
                from: pair.from,
                to: pair.to,
                rest: pair.first,
                broken: progress == Progress::Broken,
            });
        }
    }
}

fn sink_flags(pair: &Pair, full: bool) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::RDHUP, pair.one_way);
    flags.set(epoll::EventFlags::OUT, full);
    flags
}

impl Moving {
    fn step(&mut self, piece: &mut [u8]) -> Progress {
        while let Some(bytes) = self.pair.first.get(self.taken..).filter(|bytes| !bytes.is_empty()) {
            match write(&self.pair.to, bytes) {
                Ok(count) => self.taken += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Full,
                Err(_) => return Progress::Broken,
            }
        }
        if self.taken > 0 {
            // Pairs that stopped once need no memory while they are idle.
            (self.pair.first, self.taken) = (Vec::new(), 0);
        }
        let count = match read(&self.pair.from, &mut *piece) {
            Ok(0) => return Progress::End,
            Ok(count) => count,
            Err(Errno::INTR) => return Progress::Turn,
            Err(Errno::AGAIN) => return Progress::Empty,
            // A terminal answers EIO once its other end is closed; a socket whose peer died has ended too.
            Err(_) => return Progress::End,
        };
        let mut bytes = piece.get(..count).unwrap_or_default();
        loop {
            match write(&self.pair.to, bytes) {
                Ok(count) if count == bytes.len() => return Progress::Turn,
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.pair.first = bytes.to_vec();
                    return if error == Errno::AGAIN {
                        Progress::Full
                    } else {
                        Progress::Broken
                    };
                }
            }
        }
    }
}

impl Pair {
    fn finish(&self) {
        match self.at_end {
            AtEnd::Shutdown => {
                let _ = shutdown(&self.to, Shutdown::Write);
            }
            AtEnd::Type => {
                // A program that has taken the terminal out of its line mode gets no end that it does not know.
                if let Ok(settings) = tcgetattr(&self.to)
                    && settings.local_modes.contains(LocalModes::ICANON)
                {
                    let _ = write(&self.to, &[settings.special_codes[SpecialCodeIndex::VEOF]]);
                }
            }
            AtEnd::Close | AtEnd::Keep => {}
        }
    }
}

#[cfg(test)]
mod tests;
