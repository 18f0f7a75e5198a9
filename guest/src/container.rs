//! A minimal container runtime by the OCI runtime specification 1.2, for Linux with cgroup v2.
//!
//! A container is made by a chain of processes: the caller sets the stage (state folder, cgroup), the container's first
//! process builds its own view (namespaces, root file system, credentials) step by step, and becomes the workload. Every
//! step that fails names itself.
pub mod spec;

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
        /// Where it stands: "linux.namespaces[2].path".
        key: String,
        /// The value, the rule and the way out.
        problem: String,
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
