//! Passing on the descriptor with which another process decides system calls (config-linux.md § The Container Process
//! State). Runs in the runtime, outside the container, while the container's process waits.
use crate::container::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use std::{
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

/// What the listener is told along with the descriptor.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState<S> {
    /// Version of the specification.
    pub oci_version: String,
    /// What the descriptors are, in their order.
    pub fds: [&'static str; 1],
    /// The process that loaded the filter, as the runtime sees it.
    pub pid: i32,
    /// `listenerMetadata` of the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// The container's state (runtime.md § State).
    pub state: S,
}

impl<S: Serialize> ProcessState<S> {
    /// Of a process of the container whose state is `state`.
    pub fn new(oci_version: impl Into<String>, pid: i32, metadata: Option<String>, state: S) -> Self {
        Self {
            oci_version: oci_version.into(),
            fds: ["seccompFd"],
            pid,
            metadata,
            state,
        }
    }

    /// Connects to the profile's `listenerPath` and passes the descriptor and this on, then closes both. The listener
    /// serves the calls from then on.
    pub fn hand_over(&self, listener: &Path, notifications: OwnedFd) -> Result<()> {
        let wish = || format!("hand the notifications of system calls to {}", listener.display());
        let text = serde_json::to_vec(self).map_err(Error::step(wish()))?;
        let mut stream = UnixStream::connect(listener).map_err(Error::step(wish()))?;
        let descriptors = [notifications.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&descriptors));
        let sent = sendmsg(&stream, &[IoSlice::new(&text)], &mut message, SendFlags::NOSIGNAL);
        let sent = sent.map_err(Error::step(wish()))?;
        stream
            .write_all(text.get(sent..).unwrap_or_default())
            .map_err(Error::step(wish()))
    }
}
