//! Serves one client on one connection, on the connection's thread.
use super::{Agent, AgentError, command, files, step};
use coracle_protocol::{agent::Request, frame};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// Both directions of a connection, buffered for reading.
struct Channel {
    from: io::BufReader<TcpStream>,
    to: TcpStream,
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.from.read(buf)
    }
}

impl Write for Channel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the request and does what it says. Ends when the client goes away.
pub(super) fn serve(agent: &Agent, connection: TcpStream) -> Result<(), AgentError> {
    let from = connection.try_clone().map_err(step("share a connection"))?;
    let mut channel = Channel {
        from: io::BufReader::with_capacity(128 << 10, from),
        to: connection,
    };
    while let Some(request) = frame::read(&mut channel)? {
        match request {
            Request::Exec(exec) => {
                command::run(agent, &exec, channel.from, channel.to);
                return Ok(());
            }
            Request::Put { to, name, stamp } => files::put(agent, (&to, &name, stamp), &mut channel)?,
            Request::Get { from } => files::get(&from, &mut channel)?,
            Request::Lacks { files } => {
                let lacks: Vec<bool> = files.iter().map(|(p, s)| agent.stamps.lacks(p, s)).collect();
                frame::write(&mut channel, &lacks)?;
            }
        }
    }
    Ok(())
}
