//! What virtio devices need of the host: opened once per VM, plugged anew into each machine.
//!
//! Runs on the thread that builds the VM. A [`Backend`] outlives the machines: after a reset of the guest the same files and
//! sockets serve the next one.
use crate::{
    board::{Board, BoardError},
    config::spec::{BucketSpec, DeviceSpec, LimitsSpec},
};
use coracle_devices::{
    rate_limiter::{self, RateLimiter},
    virtio::{balloon::Handle as BalloonHandle, block::Capacity, disk::DiskError, net::link::Link},
};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

mod balloon;
mod block;
pub mod net;
mod ports;
mod rng;
mod vsock;

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No place on the board.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The files of a disk.
    #[error("drive {id} cannot be used")]
    Disk {
        /// The drive.
        id: String,
        /// Why not.
        source: DiskError,
    },
    /// How a disk is served.
    #[error("drive {id} cannot be served as its options ask")]
    Drive {
        /// The drive.
        id: String,
        /// Why not.
        source: io::Error,
    },
    /// Where a port leads cannot be opened.
    #[error(
        "cannot open {path:?} for port {name:?}; check the folder and that no other VM uses it, and remove a left socket"
    )]
    Port {
        /// The port.
        name: String,
        /// The file or socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A network card.
    #[error("cannot connect the network card {name}")]
    Net {
        /// The card.
        name: String,
        /// Why not.
        source: net::NetError,
    },
    /// The system refused a descriptor.
    #[error("cannot make {name}; raise the limit on open files")]
    Resource {
        /// The device.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A place for a socket that is not free.
    #[error("vsock.uds_path {} is {why}; choose another path, or remove what is there", path.display())]
    SocketTaken {
        /// The path.
        path: PathBuf,
        /// What is there.
        why: &'static str,
    },
    /// A socket cannot be made.
    #[error("cannot listen on vsock.uds_path {}; give a path in a folder that can be written", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Limits for all workers of a device.
fn limiter(spec: &LimitsSpec) -> Arc<Mutex<RateLimiter>> {
    let bucket = |spec: BucketSpec| rate_limiter::BucketSpec {
        size: spec.size,
        one_time_burst: spec.one_time_burst,
        refill_time: spec.refill_time,
    };
    let limiter = RateLimiter::new(spec.bandwidth.map(bucket), spec.ops.map(bucket), Instant::now());
    Arc::new(Mutex::new(limiter))
}

/// The owner's end of a device; it outlives the machines, as the backend does.
pub(crate) enum Handle {
    /// Its target, its statistics, its requests.
    Balloon(Arc<BalloonHandle>),
    /// The disk of this name, if it is plugged.
    Disk(String, Arc<Mutex<Option<Capacity>>>),
    /// The cable of the network card of this name.
    Cable(String, Link),
}

/// The host's side of a device.
pub(crate) trait Backend: Send + Sync {
    /// Makes the device of one machine and plugs it.
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError>;

    /// What the VM's owner may change while the guest runs.
    fn handle(&self) -> Option<Handle> {
        None
    }
}

/// Opens what the devices name, in their order.
pub(crate) fn open(specs: &[DeviceSpec]) -> Result<Vec<Box<dyn Backend>>, DeviceError> {
    specs
        .iter()
        .map(|spec| -> Result<Box<dyn Backend>, DeviceError> {
            Ok(match spec {
                DeviceSpec::Block(spec) => Box::new(block::Block::open(spec)?),
                DeviceSpec::Rng(spec) => Box::new(rng::Rng::open(spec)),
                DeviceSpec::Balloon(spec) => Box::new(balloon::Balloon::open(spec)),
                DeviceSpec::Ports(spec) => Box::new(ports::Ports::open(spec)?),
                DeviceSpec::Vsock(spec) => Box::new(vsock::Vsock::open(spec)?),
                DeviceSpec::Net(spec) => Box::new(net::Net::open(spec)?),
            })
        })
        .collect()
}
