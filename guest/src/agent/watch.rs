//! Changes of files, by inotify: a thread for each watch, until its stream is closed.
use super::{
    files::about,
    outbox::{Asker, DONE, refused},
    place::{Place, absolute},
    vsock,
};
use coracle_protocol::sandbox::{
    file::{Change, Changed, Overflow, Watch, What},
    wire::{self, Kind},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

/// Kinds of change, in the order in which they are told if several come in one.
const KINDS: &[(ReadFlags, What)] = &[
    (ReadFlags::CREATE, What::Created),
    (ReadFlags::MODIFY, What::Modified),
    (ReadFlags::CLOSE_WRITE, What::Written),
    (ReadFlags::ATTRIB, What::Attributes),
    (ReadFlags::MOVED_FROM, What::MovedFrom),
    (ReadFlags::MOVED_TO, What::MovedTo),
    (ReadFlags::DELETE, What::Removed),
    (ReadFlags::IGNORED, What::Gone),
];

/// Answers when the watch is there, and returns when it ends.
pub(super) fn watch(wish: &Watch, asker: &Asker) {
    match start(wish) {
        Ok((inotify, mut stream)) => {
            asker.answer(Ok(DONE));
            let _ = tell(&inotify, &mut stream);
        }
        Err(failed) => {
            asker.answer(Err(failed));
        }
    }
}

fn start(wish: &Watch) -> Result<(OwnedFd, File), coracle_protocol::sandbox::Failed> {
    absolute(&wish.path)?;
    let fail = || about("watch", &wish.path);
    let place = Place::new(wish.root.as_deref())?;
    let file = place.look(&wish.path, true).map_err(fail())?;
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(fail())?;
    let what = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE;
    // The file is known by now; no path can lead elsewhere any more.
    inotify::add_watch(&inotify, format!("/proc/self/fd/{}", file.as_raw_fd()), what).map_err(fail())?;
    let stream = vsock::stream(wish.stream).map_err(refused("open the stream"))?;
    Ok((inotify, File::from(stream)))
}

fn tell(inotify: &OwnedFd, stream: &mut File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); 4096];
    loop {
        let mut waiting = [
            PollFd::new(inotify, PollFlags::IN),
            PollFd::new(&*stream, PollFlags::RDHUP),
        ];
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waiting.last().is_some_and(|stream| !stream.revents().is_empty()) {
            return Ok(());
        }
        let mut reader = inotify::Reader::new(inotify, &mut space);
        loop {
            match reader.next() {
                Ok(event) => {
                    for change in changes(&event) {
                        let frame = wire::encode(0, Kind::Notice, &change).map_err(io::Error::other)?;
                        stream.write_all(&frame)?;
                    }
                    if event.events().contains(ReadFlags::IGNORED) {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn changes(event: &inotify::Event<'_>) -> Vec<Change> {
    let flags = event.events();
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        return vec![Change::Overflow(Overflow {})];
    }
    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
    let kinds = KINDS.iter().filter(|(flag, _)| flags.contains(*flag));
    kinds
        .map(|(_, what)| {
            Change::Changed(Changed {
                what: *what,
                name: name.clone().unwrap_or_default(),
                folder: flags.contains(ReadFlags::ISDIR),
                cookie: event.cookie(),
            })
        })
        .collect()
}
