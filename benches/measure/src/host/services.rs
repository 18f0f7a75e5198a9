//! The other ends of the guests' connections: threads that accept and serve for as long as the probe runs.
use coracle_measure::io::Service;
use std::{
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    thread,
};

/// As much as a guest writes or reads at once.
const PIECE: usize = 64 << 10;

/// Serves TCP at every address of this machine.
pub(super) fn on_tcp() -> io::Result<()> {
    for service in Service::ALL {
        let listener = TcpListener::bind(("0.0.0.0", service.port()))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Without it there is nothing worth measuring in the echo; what fails shows at the guest's end.
                let _ = stream.set_nodelay(true);
                let _ = serve(service, stream);
            }
        });
    }
    Ok(())
}

/// Serves Unix sockets at `<path>_<port>`: where a VMM connects for a guest that connects to that port by vsock.
pub(super) fn on_unix(path: &str) -> io::Result<()> {
    for service in Service::ALL {
        let listener = UnixListener::bind(format!("{path}_{}", service.port()))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(service, stream);
            }
        });
    }
    Ok(())
}

fn serve(service: Service, mut stream: impl Read + Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    match service {
        Service::Sink => {
            while stream.read(&mut piece)? > 0 {}
            stream.write_all(b".")
        }
        Service::Source => {
            let mut size = [0; 8];
            stream.read_exact(&mut size)?;
            let mut left = u64::from_le_bytes(size);
            while left > 0 {
                let count = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let written = stream.write(piece.get(..count).unwrap_or_default())?;
                left -= written as u64;
            }
            Ok(())
        }
        Service::Echo => loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(piece.get(..count).unwrap_or_default())?;
        },
    }
}
