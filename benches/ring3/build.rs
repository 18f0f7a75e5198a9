//! Builds the guest with the compiler that builds the rest, for a machine without an operating system: all that it needs of
//! Rust is `core`, which every target for Linux has. On other architectures there is no guest, and its image is empty.
use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One fixed place in memory, no unwinding, no symbols, and nothing of a C library.
const CODE: &[&str] = &[
    "opt-level=2",
    "panic=abort",
    "relocation-model=static",
    "strip=symbols",
    "link-args=-nostdlib -nostartfiles -static -Wl,--build-id=none",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/order.rs");
    let variable = |name| env::var(name).map_err(|_| format!("cargo sets no {name}"));
    let image = PathBuf::from(variable("OUT_DIR")?).join("guest");
    if variable("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
        return Ok(fs::write(image, [])?);
    }
    let script = Path::new("guest/link.ld").canonicalize()?;
    let status = Command::new(variable("RUSTC")?)
        .arg("guest/main.rs")
        .args(["--crate-name", "guest", "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
        .arg(image)
        .args(CODE.iter().flat_map(|option| ["-C", option]))
        .arg("-C")
        .arg(format!("link-arg=-Wl,-T,{}", script.display()))
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("the guest does not compile".into())
    }
}
