//! Which boots are measured, and with what. Writes what the probe reads, starts nothing.
use crate::{
    Outcome,
    emulated::{MEMORY_MIB, PLAIN, THERE},
};
use coracle::bundle::cpio::Archive;
use coracle_measure::{Boot, MARKER};
use serde_json::json;
use std::{fs, path::Path};

/// What PID 1 of a bundle says when it is ready for work.
const READY: &str = "coracle-guest: ready after";

/// A boot and what is special about it.
struct Variant {
    name: &'static str,
    /// Options of `coracle vm run`, or a config file with these keys of `boot-source`.
    how: How,
    /// Whether its way to the first `KVM_RUN` differs from that of `quiet`.
    own_start: bool,
    /// Whether its exits are counted by reason.
    reasons: bool,
}

enum How {
    /// By options alone, with this command line.
    Cmdline(String),
    /// By a config file, with `quiet` and this way to load the kernel.
    Load(&'static str),
    /// By options alone, with coracle's own command line.
    Defaults,
    /// By the bundle alone, up to PID 1's ready line.
    Bundle,
}

fn variants() -> Vec<Variant> {
    let quiet = How::Cmdline(format!("{PLAIN} quiet"));
    let variant = |name, how, own_start, reasons| Variant {
        name,
        how,
        own_start,
        reasons,
    };
    vec![
        variant("quiet", quiet, true, true),
        variant("verbose", How::Cmdline(PLAIN.to_string()), false, true),
        variant("copy", How::Load("copy"), true, false),
        variant("map", How::Load("map"), true, false),
        variant("defaults", How::Defaults, false, true),
        variant("product", How::Bundle, true, true),
    ]
}

impl Variant {
    /// What follows `coracle vm run`. Writes a config into `folder` if there has to be one.
    fn arguments(&self, folder: &Path) -> Outcome<Vec<String>> {
        let (kernel, initrd) = (format!("{THERE}/bundle/kernel"), format!("{THERE}/initramfs"));
        let files = ["--kernel", &kernel, "--initrd", &initrd].map(str::to_string);
        let machine = ["--vcpus", "1", "--memory", &format!("{MEMORY_MIB}M")].map(str::to_string);
        let arguments = match &self.how {
            How::Cmdline(cmdline) => [&files[..], &["--cmdline".to_string(), cmdline.clone()], &machine].concat(),
            How::Defaults => [&files[..], &machine].concat(),
            How::Bundle => [&["--bundle".to_string(), format!("{THERE}/bundle")][..], &machine].concat(),
            How::Load(load) => {
                let config = json!({
                    "boot-source": {
                        "kernel_image_path": kernel,
                        "initrd_path": initrd,
                        "boot_args": format!("{PLAIN} quiet"),
                        "kernel_load": load,
                    },
                    "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
                });
                let name = format!("{}.json", self.name);
                fs::write(folder.join(&name), serde_json::to_vec(&config)?)?;
                vec![format!("{THERE}/run/{name}")]
            }
        };
        Ok(arguments)
    }
}

/// Writes the probe's order into `folder`, and the configs that it names.
pub(crate) fn write(folder: &Path, repeats: u32) -> Outcome<()> {
    let mut boots = Vec::new();
    for variant in variants() {
        let command = [&format!("{THERE}/coracle"), "vm", "run"].map(str::to_string);
        boots.push(Boot {
            name: variant.name.to_string(),
            argv: [&command[..], &variant.arguments(folder)?].concat(),
            marker: if matches!(variant.how, How::Bundle) {
                READY
            } else {
                MARKER
            }
            .to_string(),
            memory_mib: MEMORY_MIB,
            boots: repeats,
            starts: if variant.own_start { repeats } else { 0 },
            reasons: variant.reasons,
        });
    }
    fs::write(folder.join("order.json"), serde_json::to_vec(&boots)?)?;
    Ok(())
}

/// Size of the initial file system: that of a small userland with a few modules.
const INITRAMFS_BYTES: usize = 3 << 20;

/// An initial file system with one program, which says that it runs, the console that it says it on, and padding.
pub(crate) fn initramfs(probe: &Path) -> Outcome<Vec<u8>> {
    let program = fs::read(probe)?;
    let mut archive = Archive::new();
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("padding", 0o644, vec![0; INITRAMFS_BYTES.saturating_sub(program.len())])?;
    archive.file("init", 0o755, program)?;
    Ok(archive.to_bytes())
}
