//! Files for clients: trees in both directions, and the memory of which files a client need not send again.
//!
//! Runs on a client's thread.
use super::{Agent, AgentError};
use coracle_protocol::{
    agent::{Done, Piece},
    frame,
    tree::{Receiver, TreeError, send},
};
use std::{
    collections::HashMap,
    error::Error,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Stamps of files that clients sent, with size and time of what was written then. A file that a command has changed
/// since no longer counts as sent.
#[derive(Default)]
pub(super) struct Stamps(Mutex<HashMap<PathBuf, (String, u64, SystemTime)>>);

impl Stamps {
    fn remember(&self, path: &Path, stamp: String) {
        let Some((size, time)) = identity(path) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.to_path_buf(), (stamp, size, time));
    }

    /// Whether the file is missing, or not the one of this stamp.
    pub(super) fn lacks(&self, path: &str, stamp: &str) -> bool {
        let path = Path::new(path);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((old, size, time)) = known.get(path) else {
            return true;
        };
        old != stamp || identity(path) != Some((*size, *time))
    }
}

fn identity(path: &Path) -> Option<(u64, SystemTime)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

/// An error with its causes in one line.
pub(super) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes the tree that the client sends.
pub(super) fn put(
    agent: &Agent,
    (to, name, stamp): (&str, &str, Option<String>),
    connection: &mut (impl Read + Write),
) -> Result<(), AgentError> {
    let mut outcome = Receiver::new(to, name);
    while let Some(piece) = frame::read::<Piece>(connection)? {
        let last = matches!(piece, Piece::End | Piece::Failed { .. });
        // After a failure the rest is read and dropped, so that the client comes to the end and hears of it.
        if let Ok(receiver) = &mut outcome
            && let Err(error) = receiver.take(piece)
        {
            outcome = Err(error);
        }
        if last {
            break;
        }
    }
    let done: Done = outcome
        .map(|receiver| {
            if let Some(stamp) = stamp {
                agent.stamps.remember(receiver.root(), stamp);
            }
        })
        .map_err(|error| explain(&error));
    Ok(frame::write(connection, &done)?)
}

/// Sends a tree to the client.
pub(super) fn get(from: &str, connection: &mut impl Write) -> Result<(), AgentError> {
    let last = match send(Path::new(from), &mut |piece| frame::write(connection, &piece)) {
        Ok(()) => Piece::End,
        Err(TreeError::Connection(_)) => return Ok(()),
        Err(error) => Piece::Failed {
            reason: explain(&error),
        },
    };
    Ok(frame::write(connection, &last)?)
}
