//! One command without a keeper: for exactly repeatable figures nothing may arrive from outside while it runs, so all
//! it needs is in the initial file system and all it says leaves through the second serial port.
use super::{Agent, AgentError, children, command, files, step};
use coracle_protocol::{
    agent::{Exec, Output},
    frame,
};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::atomic::AtomicBool,
};

/// Serial ports beside the console; the first that answers as one is taken.
const PORTS: &[&str] = &["/dev/ttyS1", "/dev/ttyS0"];

/// Runs the command and sends its output, its exit code and the files.
pub(super) fn run(agent: &Agent, exec: Exec, stdin: Option<String>, files_out: &[String]) -> Result<(), AgentError> {
    let mut port = open_port()?;
    let stdin = stdin.unwrap_or_else(|| "/dev/null".to_string());
    let stdin = File::open(&stdin).map_err(step(format!("open {stdin}")))?;
    let sink = command::Sink::new(port.try_clone().map_err(step("share the serial port"))?);
    let last = match children::start(&agent.children, &exec, Some(stdin)) {
        Ok((_, streams)) => {
            let code = command::forward(streams, &AtomicBool::new(false), &sink);
            for path in files_out.iter().filter(|path| Path::new(path).exists()) {
                sink.send(&Output::File { path: path.clone() });
                files::get(path, &mut port)?;
            }
            Output::Exited(code)
        }
        Err(failed) => failed,
    };
    frame::write(&mut port, &last)?;
    let _ = port.flush();
    rustix::termios::tcdrain(&port).map_err(|e| step("drain the serial port")(e.into()))
}

fn open_port() -> Result<File, AgentError> {
    let console = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut last = io::ErrorKind::NotFound.into();
    for path in PORTS {
        if console.split_whitespace().any(|name| path.ends_with(name)) {
            continue;
        }
        let opened = File::options().read(true).write(true).open(path).and_then(|port| {
            let mut settings = tcgetattr(&port)?;
            settings.make_raw();
            tcsetattr(&port, OptionalActions::Now, &settings)?;
            Ok(port)
        });
        match opened {
            Ok(port) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(step("open a serial port beside the console")(last))
}
