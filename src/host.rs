//! The emulated host: QEMU with nested virtualisation and a stock kernel, which offers `/dev/kvm` inside.
