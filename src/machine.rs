//! One incarnation of a VM: what a reset throws away and builds anew.
use crate::{
    board::PowerButton,
    memory::GuestRam,
    vcpu::{self, VcpuHandle},
};
use coracle_arch::{Arch, Host};
use coracle_devices::virtio::Transport;
use kvm_ioctls::VmFd;
use std::sync::Arc;

/// KVM's objects, guest memory and the threads that run in them. Fields are dropped in order: the vCPU threads end
/// before the devices, whose I/O threads end with them, and those before the memory that all of them use.
pub(crate) struct Machine {
    vcpus: Vec<VcpuHandle>,
    power_button: Option<PowerButton>,
    virtio: Vec<Arc<dyn Transport>>,
    _irqchip: <Host as Arch>::Irqchip,
    _vm: Arc<VmFd>,
    _ram: GuestRam,
}

impl Machine {
    /// Takes a machine whose vCPUs are all paused.
    pub(crate) fn new(
        vcpus: Vec<VcpuHandle>,
        (power_button, virtio): (Option<PowerButton>, Vec<Arc<dyn Transport>>),
        irqchip: <Host as Arch>::Irqchip,
        vm: Arc<VmFd>,
        ram: GuestRam,
    ) -> Self {
        Self {
            vcpus,
            power_button,
            virtio,
            _irqchip: irqchip,
            _vm: vm,
            _ram: ram,
        }
    }

    /// Enters the guest on all vCPUs.
    pub(crate) fn resume(&mut self) {
        self.virtio.iter().for_each(|device| device.resume());
        self.vcpus.iter_mut().for_each(VcpuHandle::resume);
    }

    /// Returns when every vCPU is out of the guest and all queues are home. All vCPUs are asked first, so that none waits for
    /// another; devices come after them, because a vCPU may hold a device's lock until it is out.
    pub(crate) fn pause(&mut self) {
        let answers = self.vcpus.iter_mut().map(VcpuHandle::pause).collect();
        vcpu::wait_all(answers);
        self.virtio.iter().for_each(|device| device.pause());
    }

    /// Presses the power button; `false` where this machine has none.
    pub(crate) fn press_power_button(&self) -> bool {
        self.power_button.as_ref().map(PowerButton::press).is_some()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.iter_mut().for_each(VcpuHandle::stop);
    }
}
