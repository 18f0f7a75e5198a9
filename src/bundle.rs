//! Kernel bundles: kernel, initramfs and manifest, made from a distribution package or a given kernel.
