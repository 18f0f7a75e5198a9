//! Requests in flight in io_uring.
//!
//! One per worker, on its I/O thread. A batch of requests costs one system call. Everything that the kernel reads or writes
//! on behalf of a request (its chain, and with it the list of its buffers) is kept here until the kernel is done with it;
//! guest memory outlives the worker. Dropping it waits for all of them.
#![allow(unsafe_code, reason = "hands buffers to the kernel for longer than a call")]
use super::request::{Failure, Kind, Request, Status, Target};
use crate::virtio::{
    chain::Chain,
    disk::{Disk, raw::Raw},
    queue::{Ring, RingError},
};
use io_uring::{IoUring, opcode, squeue, types};
use std::{
    fmt, io,
    os::fd::{AsRawFd, RawFd},
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// io_uring for one file.
pub struct Uring {
    io: IoUring,
    /// Signalled when something completes.
    done: EventFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Busy(Box<Flight>),
}

/// A request that the kernel works on.
#[derive(Debug)]
struct Flight {
    request: Request,
    chain: Chain,
    /// Where the next byte goes.
    offset: u64,
    /// Bytes that the driver has room for.
    room: usize,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Data,
    Sync,
}

/// The file's number among those that are registered.
const FILE: types::Fixed = types::Fixed(0);

impl Uring {
    /// A ring with room for `entries` requests to the file of `raw`.
    ///
    /// # Errors
    /// The kernel has no io_uring, or not for us.
    pub fn new(raw: &Raw, entries: u16) -> io::Result<Self> {
        let way_out = |error: io::Error| {
            let text = "the host does not let this process use io_uring (kernel.io_uring_disabled, a seccomp policy, or a \
                        kernel without it); set io_engine to \"Sync\"";
            match error.raw_os_error() {
                Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => io::Error::new(error.kind(), text),
                _ => error,
            }
        };
        let io = IoUring::new(entries.into()).map_err(way_out)?;
        let done = EventFd::new(EFD_NONBLOCK)?;
        io.submitter().register_eventfd(done.as_raw_fd())?;
        io.submitter().register_files(&[raw.fd().as_raw_fd()])?;
        Ok(Self {
            io,
            done,
            slots: (0..entries).map(|_| Slot::Free).collect(),
            free: (0..entries.into()).collect(),
        })
    }

    /// Whether no further request fits.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Begins a request. What needs no kernel's help, or cannot be helped, is done at once and comes back with the bytes
    /// that it goes home with.
    pub fn begin(&mut self, request: Request, mut chain: Chain, target: &mut Target) -> Option<(Chain, u32)> {
        let room = chain.writable.len();
        let (offset, step) = match request.kind {
            Kind::Read | Kind::Write => match target.place(&request, &chain) {
                Ok(place) if self.takes(&request, &chain, place.start, target) => (place.start, Step::Data),
                // A failure, or buffers that direct I/O has to copy.
                _ => {
                    let written = target.serve(&request, &mut chain);
                    return Some((chain, written));
                }
            },
            Kind::Flush if target.cached => (0, Step::Sync),
            _ => {
                let written = target.serve(&request, &mut chain);
                return Some((chain, written));
            }
        };
        let flight = Flight {
            request,
            chain,
            offset,
            room,
            step,
        };
        self.launch(Box::new(flight), target)
    }

    fn takes(&self, request: &Request, chain: &Chain, offset: u64, target: &Target) -> bool {
        let data = if request.kind == Kind::Read {
            &chain.writable
        } else {
            &chain.readable
        };
        match &*target.disk {
            Disk::Raw(raw) => !self.is_full() && raw.takes(data, offset),
            _ => false,
        }
    }

    /// Queues the next step of a flight. One that cannot be queued fails.
    fn launch(&mut self, flight: Box<Flight>, target: &mut Target) -> Option<(Chain, u32)> {
        let Some(index) = self.free.pop() else {
            return Some(flight.end(Err(io::ErrorKind::ResourceBusy.into()), target));
        };
        let entry = flight.entry().user_data(index as u64);
        // SAFETY: all that the entry points to is in the flight, which stays in its slot until the completion is reaped.
        while unsafe { self.io.submission().push(&entry) }.is_err() {
            // A full submission queue is emptied by the kernel when it is submitted.
            if self
                .io
                .submit()
                .is_err_and(|error| error.kind() != io::ErrorKind::Interrupted)
            {
                self.free.push(index);
                return Some(flight.end(Err(io::ErrorKind::ResourceBusy.into()), target));
            }
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot::Busy(flight);
        }
        None
    }

    /// Hands all that was begun to the kernel, by one system call.
    pub fn submit(&mut self) {
        if self.io.submission().is_empty() {
            return;
        }
        if let Err(error) = self.io.submit()
            && error.kind() != io::ErrorKind::Interrupted
        {
            // They stay queued and go with the next ones, which a completion or a kick brings.
            log::debug!("io_uring takes no requests now: {error}");
            let _ = self.done.write(1);
        }
    }

    /// Puts what is done into the ring.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn complete(&mut self, ring: &mut Ring, target: &mut Target) -> Result<(), RingError> {
        while let Some(entry) = self.next() {
            let Some(mut flight) = self.land(entry.user_data()) else {
                continue;
            };
            let landed = match flight.advance(entry.result(), target) {
                Ok(Some(step)) => {
                    flight.step = step;
                    self.launch(flight, target)
                }
                Ok(None) => Some(flight.end(Ok(()), target)),
                Err(error) => Some(flight.end(Err(error), target)),
            };
            if let Some((chain, written)) = landed {
                ring.push(chain, written)?;
            }
        }
        self.submit();
        Ok(())
    }

    fn next(&mut self) -> Option<io_uring::cqueue::Entry> {
        self.io.completion().next()
    }

    /// Takes the flight that has completed out of its slot.
    fn land(&mut self, index: u64) -> Option<Box<Flight>> {
        let index = usize::try_from(index).ok()?;
        match std::mem::replace(self.slots.get_mut(index)?, Slot::Free) {
            Slot::Free => None,
            Slot::Busy(flight) => {
                self.free.push(index);
                Some(flight)
            }
        }
    }

    /// Ends everything that is in flight.
    ///
    /// # Errors
    /// The ring is broken; what was in flight is then forgotten, once the kernel is done with it.
    pub fn finish(&mut self, ring: &mut Ring, target: &mut Target) -> Result<(), RingError> {
        let mut result = Ok(());
        // An end may be a beginning: a short read goes on, and a write that goes through is followed by a sync.
        while !self.is_idle() && self.wait() {
            if result.is_ok() {
                result = self.complete(ring, target);
            }
            if result.is_err() {
                while let Some(entry) = self.next() {
                    drop(self.land(entry.user_data()));
                }
            }
        }
        result
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Waits until the kernel is done with everything. Results stay to be taken. `false` if there is no waiting.
    pub fn wait(&mut self) -> bool {
        let busy = self.slots.len() - self.free.len();
        while self.io.completion().len() < busy {
            if let Err(error) = self.io.submit_and_wait(busy)
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("io_uring cannot be waited for: {error}");
                return false;
            }
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.is_idle() && !self.wait() {
            // Better lost than freed while the kernel may still look at it.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        self.done.as_raw_fd()
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

impl Flight {
    /// The next step, for the kernel.
    fn entry(&self) -> squeue::Entry {
        if self.step == Step::Sync {
            return opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build();
        }
        let is_read = self.request.kind == Kind::Read;
        let data = if is_read {
            &self.chain.writable
        } else {
            &self.chain.readable
        };
        let (parts, count) = (data.iovecs().as_ptr(), data.iovecs().len().min(MAX_IOVECS) as u32);
        if is_read {
            opcode::Readv::new(FILE, parts, count).offset(self.offset).build()
        } else {
            opcode::Writev::new(FILE, parts, count).offset(self.offset).build()
        }
    }

    /// Takes a result and says what comes next, if anything.
    fn advance(&mut self, result: i32, target: &Target) -> io::Result<Option<Step>> {
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            return Ok(Some(self.step));
        }
        let done = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
        if self.step == Step::Sync {
            return Ok(None);
        }
        let is_read = self.request.kind == Kind::Read;
        let data = if is_read {
            &mut self.chain.writable
        } else {
            &mut self.chain.readable
        };
        data.skip(done);
        self.offset += done as u64;
        match (done, data.is_empty()) {
            (_, true) if !is_read && target.write_through.is_on() => Ok(Some(Step::Sync)),
            (_, true) => Ok(None),
            (0, false) => Err(io::ErrorKind::UnexpectedEof.into()),
            (_, false) => Ok(Some(Step::Data)),
        }
    }

    /// Ends the request: its chain and the bytes that it goes home with.
    fn end(self, result: io::Result<()>, target: &mut Target) -> (Chain, u32) {
        let data = self.room - self.chain.writable.len();
        let written = match result {
            Ok(()) => self.request.finish(Status::Ok, data, self.room),
            Err(error) => {
                let status = target.explain(&self.request, Failure::Storage(error));
                self.request.finish(status, 0, self.room)
            }
        };
        (self.chain, written)
    }
}

/// `IOV_MAX` of Linux.
const MAX_IOVECS: usize = 1024;
