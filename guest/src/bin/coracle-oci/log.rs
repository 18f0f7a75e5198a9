//! Where errors and warnings go: standard error, and the file of `--log`, in which the tools around look for the reason
//! of a failure.
use crate::arguments::{Arguments, LogFormat};
use coracle_guest::container::state::now;
use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

/// The log of this command.
pub(crate) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
}

impl Log {
    /// As the arguments want it.
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Self {
            file: arguments.log.clone(),
            format: arguments.log_format,
        }
    }

    /// Why the command failed: for whoever called it, and for the file.
    pub(crate) fn error(&self, message: &str) {
        complain(message);
        self.note("error", message);
    }

    /// What should be known. Callers that want a file read that; what they would take for the container's own words is
    /// left as it is.
    pub(crate) fn warn(&self, message: &str) {
        if self.file.is_none() {
            complain(&format!("warning: {message}"));
        }
        self.note("warning", message);
    }

    fn note(&self, level: &str, message: &str) {
        let Some(path) = &self.file else { return };
        let time = now();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": message, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={message:?}"),
        };
        let file = OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            complain(&format!("cannot write to {}: {error}", path.display()));
        }
    }
}

fn complain(message: &str) {
    // There is nobody left to tell of a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "coracle-oci: {message}");
}
