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

    /// Why the command failed.
    pub(crate) fn error(&self, message: &str) {
        self.tell("error", message);
    }

    /// What the user should know.
    pub(crate) fn warn(&self, message: &str) {
        self.tell("warning", message);
    }

    fn tell(&self, level: &str, message: &str) {
        let prefix = if level == "warning" { "warning: " } else { "" };
        // There is nobody left to tell of a standard error that is closed.
        let _ = writeln!(std::io::stderr(), "coracle-oci: {prefix}{message}");
        let Some(path) = &self.file else { return };
        let time = now();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": message, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={message:?}"),
        };
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            let _ = writeln!(
                std::io::stderr(),
                "coracle-oci: cannot write to {}: {error}",
                path.display()
            );
        }
    }
}
