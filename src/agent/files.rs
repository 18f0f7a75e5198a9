//! Files in the guest.
use super::{
    Agent, AgentError,
    calls::{Arrival, Call, Calls, PATIENCE, random_token},
};
use coracle_protocol::sandbox::{
    Answer, Request, Token,
    file::{self, Change, Entry, Status},
    wire::{self, Kind},
};
use std::{
    io::{self, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
};

/// Entries of one folder; a guest that tells of more is not listened to.
const MOST_ENTRIES: usize = 1 << 20;

/// Files in the guest, of all of it or beneath one folder. Paths are absolute.
pub struct Files<'a> {
    calls: &'a Arc<Calls>,
    root: Option<String>,
}

impl Agent {
    /// The guest's files.
    pub fn files(&self) -> Files<'_> {
        Files {
            calls: &self.calls,
            root: None,
        }
    }

    /// Files beneath a folder: no path and no link leads out of it.
    pub fn files_beneath(&self, root: impl Into<String>) -> Files<'_> {
        Files {
            calls: &self.calls,
            root: Some(root.into()),
        }
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits; 0644 without.
    pub mode: Option<u32>,
    /// Where the first byte goes; the file keeps what it has elsewhere. Otherwise it has the new bytes alone.
    pub offset: Option<u64>,
    /// Fail if it is there already.
    pub new: bool,
}

impl Files<'_> {
    /// Facts about a file; with `follow`, of what a symbolic link leads to.
    pub fn stat(&self, path: &str, follow: bool) -> Result<Status, AgentError> {
        let request = Request::Stat(file::Stat {
            path: path.to_owned(),
            root: self.root.clone(),
            follow,
        });
        match self.calls.ask(&request)? {
            Answer::Status(status) => Ok(status),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// What a folder holds, by name.
    pub fn list(&self, path: &str) -> Result<Vec<Entry>, AgentError> {
        let request = Request::List(file::List {
            path: path.to_owned(),
            root: self.root.clone(),
        });
        let call = self.calls.send(&request, &[])?;
        let mut entries = Vec::new();
        loop {
            match call.next(Some(PATIENCE))? {
                Arrival::Part(Answer::Entries(part)) if entries.len() < MOST_ENTRIES => entries.extend(part.entries),
                Arrival::Last(Answer::Entries(part)) => {
                    entries.extend(part.entries);
                    entries.sort_by(|one, other| one.name.cmp(&other.name));
                    return Ok(entries);
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
    }

    /// Opens a file to read it from `offset` on.
    pub fn open(&self, path: &str, offset: u64, length: Option<u64>) -> Result<Download, AgentError> {
        self.download(|stream| {
            Request::Read(file::Read {
                path: path.to_owned(),
                root: self.root.clone(),
                offset,
                length,
                stream,
            })
        })
    }

    /// A file's bytes.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, AgentError> {
        self.open(path, 0, None)?.all()
    }

    /// Opens a file to write it.
    pub fn create(&self, path: &str, options: WriteOptions) -> Result<Upload, AgentError> {
        self.upload(|stream| {
            Request::Write(file::Write {
                path: path.to_owned(),
                root: self.root.clone(),
                mode: options.mode,
                offset: options.offset,
                new: options.new,
                stream,
            })
        })
    }

    /// Writes a file that has these bytes alone.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), AgentError> {
        self.create(path, WriteOptions::default())?.all(bytes)
    }

    /// Makes a folder; with `parents` those above it too, and it may be there already.
    pub fn mkdir(&self, path: &str, mode: Option<u32>, parents: bool) -> Result<(), AgentError> {
        self.calls.tell(&Request::Mkdir(file::Mkdir {
            path: path.to_owned(),
            root: self.root.clone(),
            mode,
            parents,
        }))
    }

    /// Renames within a file system; what has the new name goes.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), AgentError> {
        self.calls.tell(&Request::Rename(file::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            root: self.root.clone(),
        }))
    }

    /// Removes a file, an empty folder, or with `recursive` a folder with all that is in it.
    pub fn remove(&self, path: &str, recursive: bool) -> Result<(), AgentError> {
        let request = Request::Remove(file::Remove {
            path: path.to_owned(),
            root: self.root.clone(),
            recursive,
        });
        // A large tree takes its time.
        super::calls::done(self.calls.send(&request, &[])?.answer(None)?)
    }

    /// Tells of changes in a folder, or of a file, from now on.
    pub fn watch(&self, path: &str) -> Result<Watch, AgentError> {
        let stream = random_token();
        let request = Request::Watch(file::Watch {
            path: path.to_owned(),
            root: self.root.clone(),
            stream,
        });
        let (answer, mut came) = self.calls.send(&request, &[stream])?.answer_with_streams()?;
        super::calls::done(answer)?;
        let stream = came.remove(&stream).ok_or(AgentError::Unexpected)?;
        Ok(Watch(BufReader::new(stream)))
    }

    /// A tree as a tar archive.
    pub fn pack(&self, path: &str) -> Result<Download, AgentError> {
        self.download(|stream| {
            Request::Pack(file::Pack {
                path: path.to_owned(),
                root: self.root.clone(),
                stream,
            })
        })
    }

    /// Unpacks a tar archive into a folder. Without `owners` all belongs to root.
    pub fn unpack(&self, path: &str, owners: bool) -> Result<Upload, AgentError> {
        self.upload(|stream| {
            Request::Unpack(file::Unpack {
                path: path.to_owned(),
                root: self.root.clone(),
                owners,
                stream,
            })
        })
    }

    fn download(&self, request: impl FnOnce(Token) -> Request) -> Result<Download, AgentError> {
        let (call, stream) = self.open_stream(request)?;
        Ok(Download { call, stream, count: 0 })
    }

    fn upload(&self, request: impl FnOnce(Token) -> Request) -> Result<Upload, AgentError> {
        let (call, stream) = self.open_stream(request)?;
        Ok(Upload { call, stream })
    }

    /// The stream comes before the answer, unless the agent refuses.
    fn open_stream(&self, request: impl FnOnce(Token) -> Request) -> Result<(Call, UnixStream), AgentError> {
        let token = random_token();
        let call = self.calls.send(&request(token), &[token])?;
        // A small file's answer may overtake its stream.
        match call.next_stream(PATIENCE)? {
            Some(stream) => Ok((call, stream)),
            None => Err(AgentError::Unexpected),
        }
    }
}

/// Bytes that come from the guest.
pub struct Download {
    call: Call,
    stream: UnixStream,
    count: u64,
}

impl Download {
    /// All bytes that are left.
    pub fn all(mut self) -> Result<Vec<u8>, AgentError> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(AgentError::Stream)?;
        self.finish()?;
        Ok(bytes)
    }

    /// After the end of the bytes: whether these were all. An error in the guest ends the bytes too.
    pub fn finish(self) -> Result<u64, AgentError> {
        match self.call.answer(Some(PATIENCE))? {
            Answer::Moved(moved) if moved.bytes == self.count => Ok(self.count),
            _ => Err(AgentError::Unexpected),
        }
    }
}

impl Read for Download {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Bytes that go to the guest.
pub struct Upload {
    call: Call,
    stream: UnixStream,
}

impl Upload {
    /// Sends these bytes as the last.
    pub fn all(mut self, bytes: &[u8]) -> Result<(), AgentError> {
        let sent = self.stream.write_all(bytes);
        // If the guest has stopped reading, its answer says why.
        self.finish()?;
        sent.map_err(AgentError::Stream)
    }

    /// Ends the bytes and waits until the guest has them all. Dropping it instead ends them too, but tells nobody.
    pub fn finish(self) -> Result<u64, AgentError> {
        let _ = self.stream.shutdown(Shutdown::Write);
        match self.call.answer(None)? {
            Answer::Moved(moved) => Ok(moved.bytes),
            _ => Err(AgentError::Unexpected),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Changes, one by one. Dropping it ends the watch.
pub struct Watch(BufReader<UnixStream>);

impl Watch {
    /// The socket, to poll. Changes that were read ahead are not seen there.
    pub fn stream(&self) -> &UnixStream {
        self.0.get_ref()
    }
}

impl Iterator for Watch {
    type Item = Result<Change, AgentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = wire::read(&mut self.0).transpose()?;
        let change = frame.and_then(|frame| match frame.kind {
            Kind::Notice => frame.message(),
            _ => Err(wire::WireError::Malformed("a frame that is no notice".to_owned())),
        });
        Some(change.map_err(AgentError::Wire))
    }
}
