//! A machine's PCI bus: the root with KVM behind it, and the windows by which a guest reaches it.
//!
//! Owns the way from functions to KVM. Built on the thread that builds the VM; doorbells move on vCPUs.
use crate::msi;
use coracle_arch::{
    Arch, Host,
    platform::{self, Messages, Part, PartKind},
};
use coracle_devices::{
    bus::BusDevice,
    gicv2m::Gicv2m,
    pci::{
        Space,
        aperture::Aperture,
        doorbell::Doorbells,
        ecam::Ecam,
        ports::ConfigPorts,
        root::{Apertures, PlugError, Root},
    },
    virtio::{
        Signals, Transport,
        function::Function,
        pci::{PciTransport, TransportError, Wiring},
    },
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::{io, ops::Range, sync::Arc};
use vmm_sys_util::eventfd::EventFd;

/// Why a function could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// The bus has no room.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The device cannot be a function.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// See the module.
pub(crate) struct PciBus {
    root: Arc<Root>,
    wiring: Wiring,
    /// Different messages that the interrupt controller can take, where that is its affair.
    messages: u32,
}

impl PciBus {
    /// A bus with a host bridge; functions on it send at most `messages` different messages.
    pub(crate) fn new(vm: &Arc<VmFd>, messages: u32) -> Self {
        let io = window(PartKind::PciIo);
        let messages = match Host::MESSAGES {
            Messages::Routed { .. } => messages,
            Messages::Frame { most, .. } => messages.min(most),
        };
        Self {
            wiring: Wiring {
                messages: msi::backend(vm.clone(), Host::MESSAGES, messages),
                doorbells: Arc::new(KvmDoorbells(vm.clone())),
                ports: !io.is_empty(),
            },
            root: Arc::new(Root::new(Apertures {
                memory: window(PartKind::PciMemory),
                io,
            })),
            messages,
        }
    }

    /// The configuration ports.
    pub(crate) fn ports(&self) -> Arc<dyn BusDevice> {
        Arc::new(ConfigPorts::new(self.root.clone()))
    }

    /// What stands in a window of the bus; `None` for a part that is none of PCI's.
    pub(crate) fn device(&self, part: &Part) -> Option<Arc<dyn BusDevice>> {
        let root = self.root.clone();
        Some(match part.kind {
            PartKind::PciConfig => Arc::new(Ecam::new(root)),
            PartKind::PciMemory => Arc::new(Aperture::new(root, Space::Memory)),
            PartKind::PciIo => Arc::new(Aperture::new(root, Space::Io)),
            PartKind::MessageFrame => {
                let Messages::Frame { first, .. } = Host::MESSAGES else {
                    return None;
                };
                Arc::new(Gicv2m::new(platform::PRIVATE_INTERRUPTS + first, self.messages))
            }
            _ => return None,
        })
    }

    /// Plugs the virtio function that `make` gives for its signals.
    pub(crate) fn virtio(
        &self,
        name: &str,
        make: impl FnOnce(Signals) -> io::Result<Function>,
    ) -> Result<Arc<dyn Transport>, PciError> {
        let make = |signals| make(signals).map_err(TransportError::Event);
        let (transport, space) = PciTransport::new(name, &self.wiring, make)?;
        let transport = Arc::new(transport);
        self.root.plug(space, transport.clone())?;
        Ok(transport)
    }
}

/// The addresses of a part of PCI; empty where the architecture has none.
fn window(kind: PartKind) -> Range<u64> {
    let part = Host::PCI.iter().find(|part| part.kind == kind);
    part.map_or(0..0, |part| part.base..part.base + part.size)
}

/// Doorbells are ioeventfds.
struct KvmDoorbells(Arc<VmFd>);

fn address(space: Space, address: u64) -> IoEventAddress {
    match space {
        Space::Memory => IoEventAddress::Mmio(address),
        Space::Io => IoEventAddress::Pio(address),
    }
}

impl Doorbells for KvmDoorbells {
    fn connect(&self, space: Space, at: u64, event: &EventFd) -> io::Result<()> {
        self.0
            .register_ioevent(event, &address(space, at), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn disconnect(&self, space: Space, at: u64, event: &EventFd) {
        if let Err(error) = self.0.unregister_ioevent(event, &address(space, at), NoDatamatch) {
            log::error!("cannot disconnect a doorbell at {at:#x}: {error}");
        }
    }
}
