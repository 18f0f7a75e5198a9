//! A minimal container runtime by the OCI runtime specification 1.2, for Linux with cgroup v2.
//!
//! A container is made by a chain of processes: the caller sets the stage (state folder, cgroup), the container's first
//! process builds its own view (namespaces, root file system, credentials) step by step, and becomes the workload. Every
//! step that fails names itself.
pub mod cgroup;
pub mod create;
pub mod exec;
pub mod executable;
pub mod features;
pub mod lifecycle;
pub mod rootfs;
pub mod run;
pub mod seccomp;
pub mod signals;
pub mod spec;
pub mod state;
pub mod system;

mod blueprint;
mod calls;
mod channel;
mod foreground;
mod hooks;
mod init;
mod namespaces;
mod privileges;
mod process;
mod tty;

use std::io;

/// Why a container could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("cannot {wish}")]
    Step {
        /// What was to be done, with what: "mount tmpfs on /dev/shm".
        wish: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bundle's configuration asks for what makes no sense, or for what this runtime does not do.
    #[error("config.json: {key}: {problem}")]
    Spec {
        /// Where it stands: `linux.namespaces[2].path`.
        key: String,
        /// The value, the rule and the way out.
        problem: String,
    },
    /// The container is not in a state in which that could be done, or not there at all.
    #[error("container {id}: {problem}")]
    State {
        /// Its name.
        id: String,
        /// Its state, the rule and the way out.
        problem: String,
    },
    /// The request itself makes no sense, or asks for what this runtime does not do.
    #[error("{0}")]
    Refused(String),
    /// A step failed inside the container, whose words these are.
    #[error("{why}")]
    Inside {
        /// What a shell would exit with: 127 for a program that is not there, 126 for one that cannot run.
        code: u8,
        /// The step, what it was about and what the kernel said.
        why: String,
    },
}

impl Error {
    /// For `map_err`: names the step.
    pub fn step<E: Into<io::Error>>(wish: impl Into<String>) -> impl FnOnce(E) -> Self {
        let wish = wish.into();
        move |source| Self::Step {
            wish,
            source: source.into(),
        }
    }

    /// A complaint about a container's state.
    pub fn state(id: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::State {
            id: id.into(),
            problem: problem.into(),
        }
    }

    /// It and what it comes from, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    /// What a shell would exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Inside { code, .. } => *code,
            _ => 1,
        }
    }

    /// A complaint about the bundle's configuration.
    pub fn spec(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Spec {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// What comes of a step.
pub type Result<T> = std::result::Result<T, Error>;
