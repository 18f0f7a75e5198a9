//! Kernel bundles: kernel, initramfs and manifest, made from a distribution package or a given kernel.
//!
//! [`Recipe::build`] makes one; [`Manifest::read`] looks at one. The parts ([`debian`], [`modules`], [`payload`],
//! [`cpio`]) serve by themselves where something else than a bundle is put together from packages. Never prints.
use std::{env, path::PathBuf};

mod build;
mod busybox;
pub mod cpio;
pub mod debian;
mod initramfs;
mod inputs;
mod manifest;
pub mod modules;
pub mod payload;
mod store;

pub use build::{Added, Built, KernelFrom, Recipe};
pub use manifest::{Architecture, FORMAT, FileFacts, Manifest, ManifestError, Source};
pub use store::StoreError;

/// Why a bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file could not be read or written.
    #[error("the bundle's files cannot be kept")]
    Store(#[from] StoreError),
    /// A Debian package could not be had.
    #[error("a Debian package that the bundle needs is missing")]
    Debian(#[from] debian::DebianError),
    /// A module could not be had.
    #[error("the kernel's modules cannot be gathered")]
    Modules(#[from] modules::ModuleError),
    /// The kernel cannot be unpacked.
    #[error("the kernel cannot be unpacked")]
    Payload(#[from] payload::PayloadError),
    /// The initramfs cannot be laid out.
    #[error("the initramfs cannot be put together")]
    Cpio(#[from] cpio::CpioError),
    /// Modules were asked for by name, but there is no tree to take them from.
    #[error("the module {0} cannot be taken from a kernel without modules: give its module tree with --modules")]
    NoTreeFor(String),
    /// There is no guest program.
    #[error(
        "there is no guest program at {}: build it with `make guest ARCH={arch}`, or give it with --guest",
        path.display()
    )]
    Guest {
        /// Where it was looked for.
        path: PathBuf,
        /// What it shall run on.
        arch: Architecture,
        /// What the system said.
        source: StoreError,
    },
    /// The guest program would not start.
    #[error(
        "{} cannot be PID 1 of an {arch} guest: {wrong}; build it with `make guest ARCH={arch}`",
        path.display()
    )]
    GuestProgram {
        /// The program.
        path: PathBuf,
        /// What it shall run on.
        arch: Architecture,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// No kernel for aarch64.
    #[error("{} is no arm64 Image, neither plain nor compressed: give the kernel's arch/arm64/boot/Image", .0.display())]
    NoArmImage(PathBuf),
    /// The folder is full of something else.
    #[error("{} holds files that are no kernel bundle: give another folder with --out", .0.display())]
    Occupied(PathBuf),
    /// Cannot happen: a bundle was made without being made.
    #[error("the bundle was not made: run `coracle kernel build` again")]
    Empty,
}

/// The folder where downloaded packages are kept unless another is given: below `$XDG_CACHE_HOME`, `$HOME/.cache`, or
/// the folder for temporary files if neither is set.
pub fn default_cache() -> PathBuf {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.unwrap_or_else(env::temp_dir).join("coracle/packages")
}
