//! Where this program's log records go: standard error, or the config's file.
use coracle::config::spec::LoggerSpec;
use log::{LevelFilter, Log, Metadata, Record};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

struct Logger {
    file: Option<Mutex<File>>,
    show_level: bool,
    show_origin: bool,
    module: Option<String>,
}

/// Installs the logger of a config, or one on standard error at `fallback`.
pub(crate) fn install(spec: Option<&LoggerSpec>, fallback: LevelFilter) -> io::Result<()> {
    let file = spec.and_then(|s| s.path.as_ref()).map(|path| {
        OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
            io::Error::other(format!(
                "cannot open {} (logger.log_path): {e}; check the folder and its permissions",
                path.display()
            ))
        })
    });
    let logger = Logger {
        file: file.transpose()?.map(Mutex::new),
        show_level: spec.is_none_or(|s| s.show_level),
        show_origin: spec.is_some_and(|s| s.show_origin),
        module: spec.and_then(|s| s.module.clone()),
    };
    log::set_max_level(spec.map_or(fallback, |s| s.level));
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.module
            .as_ref()
            .is_none_or(|module| metadata.target().starts_with(module.as_str()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = if self.show_level {
            format!("{}: ", record.level().as_str().to_ascii_lowercase())
        } else {
            String::new()
        };
        let origin = match (self.show_origin, record.file(), record.line()) {
            (true, Some(file), Some(line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        let line = format!("coracle: {level}{origin}{}\n", record.args());
        // Nobody is left to hear that logging fails.
        let _ = match &self.file {
            Some(file) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}
