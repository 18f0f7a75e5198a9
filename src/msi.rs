//! Messages of PCI functions become interrupts: by routes of KVM's, or by the shared interrupts behind a GICv2m frame.
//!
//! Owns which GSI carries which message. Called on vCPUs, under a function's lock; its own lock is held for a change of the
//! routes. A vector takes a GSI when the guest first opens it, so vectors that no driver uses cost nothing.
use coracle_arch::platform::{Line, Messages, PRIVATE_INTERRUPTS};
use coracle_devices::{
    irq::IrqLine,
    pci::msix::{Message, MsiBackend, MsiError, MsiRoute},
};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{Cap, VmFd};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The backend of this architecture; the interrupt controller was created for `count` messages.
pub(crate) fn backend(vm: Arc<VmFd>, how: Messages, count: u32) -> Arc<dyn MsiBackend> {
    match how {
        Messages::Routed { first, lines } => {
            // The capability's value is the number of routes; 0 would be a KVM without any.
            let routes = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
            let limit = routes.saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX));
            let state = Mutex::new(Routes {
                lines,
                first,
                limit,
                messages: BTreeMap::new(),
            });
            Arc::new(Routed(Arc::new(Shared { vm, state })))
        }
        Messages::Frame { register, first, .. } => Arc::new(Frame {
            vm,
            register,
            first,
            count,
        }),
    }
}

/// The routes of a VM.
struct Routes {
    lines: &'static [Line],
    first: u32,
    /// Most messages.
    limit: u32,
    /// By GSI.
    messages: BTreeMap<u32, Message>,
}

impl Routes {
    /// A GSI that carries no message yet.
    fn free(&self) -> Result<u32, MsiError> {
        (self.first..self.first.saturating_add(self.limit))
            .find(|gsi| !self.messages.contains_key(gsi))
            .ok_or(MsiError::Full(self.limit))
    }

    /// All routes, as KVM wants them.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let lines = self.lines.iter().map(|line| kvm_irq_routing_entry {
            gsi: line.gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: Target {
                irqchip: kvm_irq_routing_irqchip {
                    irqchip: line.chip,
                    pin: line.pin,
                },
            },
            ..Default::default()
        });
        let messages = self.messages.iter().map(|(gsi, message)| kvm_irq_routing_entry {
            gsi: *gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: Target {
                msi: kvm_irq_routing_msi {
                    address_lo: message.address as u32,
                    address_hi: (message.address >> 32) as u32,
                    data: message.data,
                    ..Default::default()
                },
            },
            ..Default::default()
        });
        lines.chain(messages).collect()
    }
}

struct Shared {
    vm: Arc<VmFd>,
    state: Mutex<Routes>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a GSI carry `message`; without one, lets the lowest that is free.
    fn carry(&self, gsi: Option<u32>, message: Message) -> Result<u32, MsiError> {
        let mut routes = self.lock();
        let gsi = gsi.map_or_else(|| routes.free(), Ok)?;
        let before = routes.messages.insert(gsi, message);
        if before == Some(message) {
            return Ok(gsi);
        }
        let set = || {
            let table = KvmIrqRouting::from_entries(&routes.entries()).map_err(|_| MsiError::Full(routes.limit))?;
            self.vm.set_gsi_routing(&table).map_err(refused)
        };
        if let Err(error) = set() {
            // The next attempt must not take this one for done.
            match before {
                Some(message) => routes.messages.insert(gsi, message),
                None => routes.messages.remove(&gsi),
            };
            return Err(error);
        }
        Ok(gsi)
    }
}

/// KVM sends the messages.
struct Routed(Arc<Shared>);

impl MsiBackend for Routed {
    fn route(&self, line: IrqLine) -> Box<dyn MsiRoute> {
        Box::new(RoutedVector {
            shared: self.0.clone(),
            wire: Wire::new(line),
            gsi: None,
        })
    }
}

struct RoutedVector {
    shared: Arc<Shared>,
    wire: Wire,
    gsi: Option<u32>,
}

impl MsiRoute for RoutedVector {
    fn connect(&mut self, message: Message) -> Result<(), MsiError> {
        let gsi = self.shared.carry(self.gsi, message)?;
        self.gsi = Some(gsi);
        self.wire.connect(&self.shared.vm, gsi)
    }

    fn disconnect(&mut self) {
        self.wire.disconnect(&self.shared.vm);
    }
}

impl Drop for RoutedVector {
    fn drop(&mut self) {
        self.wire.disconnect(&self.shared.vm);
        if let Some(gsi) = self.gsi {
            // KVM hears of it with the next change; until then a route leads from a GSI that nothing raises.
            self.shared.lock().messages.remove(&gsi);
        }
    }
}

/// The message's number names a shared interrupt.
struct Frame {
    vm: Arc<VmFd>,
    register: u64,
    first: u32,
    count: u32,
}

impl MsiBackend for Frame {
    fn route(&self, line: IrqLine) -> Box<dyn MsiRoute> {
        Box::new(FrameVector {
            vm: self.vm.clone(),
            register: self.register,
            first: self.first,
            count: self.count,
            wire: Wire::new(line),
        })
    }
}

/// The interrupt behind a message, as `KVM_IRQFD` counts.
fn behind(message: Message, register: u64, first: u32, count: u32) -> Result<u32, MsiError> {
    let gsi = message.data.checked_sub(PRIVATE_INTERRUPTS);
    gsi.filter(|gsi| message.address == register && gsi.checked_sub(first).is_some_and(|index| index < count))
        .ok_or(MsiError::Nowhere(message))
}

struct FrameVector {
    vm: Arc<VmFd>,
    register: u64,
    first: u32,
    count: u32,
    wire: Wire,
}

impl MsiRoute for FrameVector {
    fn connect(&mut self, message: Message) -> Result<(), MsiError> {
        let gsi = behind(message, self.register, self.first, self.count)?;
        self.wire.connect(&self.vm, gsi)
    }

    fn disconnect(&mut self) {
        self.wire.disconnect(&self.vm);
    }
}

impl Drop for FrameVector {
    fn drop(&mut self) {
        self.wire.disconnect(&self.vm);
    }
}

/// A line and the GSI that it raises.
struct Wire {
    line: IrqLine,
    gsi: Option<u32>,
}

impl Wire {
    fn new(line: IrqLine) -> Self {
        Self { line, gsi: None }
    }

    fn connect(&mut self, vm: &VmFd, gsi: u32) -> Result<(), MsiError> {
        if self.gsi == Some(gsi) {
            return Ok(());
        }
        self.disconnect(vm);
        vm.register_irqfd(self.line.event(), gsi).map_err(refused)?;
        self.gsi = Some(gsi);
        // KVM injects what is pending without taking it out of the counter; from here on it takes all out itself.
        let _ = self.line.event().read();
        Ok(())
    }

    fn disconnect(&mut self, vm: &VmFd) {
        if let Some(gsi) = self.gsi.take()
            && let Err(error) = vm.unregister_irqfd(self.line.event(), gsi)
        {
            log::error!("cannot disconnect interrupt {gsi}: {error}");
        }
    }
}

fn refused(error: kvm_ioctls::Error) -> MsiError {
    MsiError::Refused(io::Error::from_raw_os_error(error.errno()))
}

#[cfg(test)]
mod tests;
