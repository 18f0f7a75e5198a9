//! Answers on their way to the host. Whoever has one writes it, one frame at a time.
use coracle_protocol::sandbox::{
    Answer, Done, Failed, Reason,
    wire::{self, Kind},
};
use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// What comes of a request.
pub(super) type Reply = Result<Answer, Failed>;

/// There is nothing to say but that it is done.
pub(super) const DONE: Answer = Answer::Done(Done {});

/// The sending half of a control connection.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Mutex<File>>);

/// To whom an answer goes.
#[derive(Clone)]
pub(super) struct Asker {
    outbox: Outbox,
    number: u32,
}

impl Outbox {
    pub(super) fn new(connection: File) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    pub(super) fn asker(&self, number: u32) -> Asker {
        Asker {
            outbox: self.clone(),
            number,
        }
    }
}

impl Asker {
    /// The last answer. False if the host is not there to hear it.
    pub(super) fn answer(&self, reply: Reply) -> bool {
        let answer = reply.unwrap_or_else(Answer::Failed);
        match wire::encode(self.number, Kind::Answer, &answer) {
            Ok(frame) => self.send(&frame),
            Err(error) => {
                let failed = invalid(format!("the answer cannot be told: {error}"));
                self.answer(Err(failed))
            }
        }
    }

    /// One answer of several. An error means that the host is not there to hear it.
    pub(super) fn part(&self, answer: &Answer) -> io::Result<()> {
        let frame = wire::encode(self.number, Kind::Part, answer).map_err(io::Error::other)?;
        if self.send(&frame) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn send(&self, frame: &[u8]) -> bool {
        let mut to = self.outbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        io::Write::write_all(&mut *to, frame).is_ok()
    }
}

/// A refusal by the kernel, for `map_err`: names what was to be done.
pub(super) fn refused<E: Into<io::Error>>(wish: impl Into<String>) -> impl FnOnce(E) -> Failed {
    let wish = wish.into();
    move |error| {
        let error = error.into();
        let reason = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO) => Reason::NotFound,
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => Reason::Denied,
            Some(libc::EBUSY | libc::EEXIST | libc::ENOTEMPTY | libc::ETXTBSY) => Reason::Busy,
            Some(libc::EINVAL | libc::ENOTDIR | libc::EISDIR | libc::ENAMETOOLONG) => Reason::Invalid,
            Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM) => Reason::TooMany,
            _ => Reason::System,
        };
        Failed {
            reason,
            text: format!("cannot {wish}: {error}"),
            errno: error.raw_os_error(),
            exit_code: None,
        }
    }
}

/// A request that makes no sense.
pub(super) fn invalid(text: impl Into<String>) -> Failed {
    failure(Reason::Invalid, text)
}

/// A failure without the kernel's doing.
pub(super) fn failure(reason: Reason, text: impl Into<String>) -> Failed {
    Failed {
        reason,
        text: text.into(),
        errno: None,
        exit_code: None,
    }
}
