//! Which boots are measured. Writes their configs and the guest's initial file system; starts nothing.
use crate::Outcome;
use coracle::{bundle::cpio::Archive, host::HostArch};
use coracle_measure::{Boot, MARKER};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Where everything lies in the emulated host.
pub(crate) const THERE: &str = "/bench";

/// Guest memory of every boot.
pub(crate) const MEMORY_MIB: u64 = 256;

/// The command line that every VMM can be measured with: no option in it is made for one.
const PLAIN: &str = "console=ttyS0 reboot=k panic=-1 nokaslr";

/// What PID 1 of a bundle says when it is ready for work.
const READY: &str = "coracle-guest: ready after";

/// A boot and what is special about its config.
struct Variant {
    name: &'static str,
    /// Keys of `boot-source` beyond kernel and initrd.
    boot: Value,
    /// With the initramfs of the bundle, up to PID 1's ready line.
    product: bool,
    /// Whether its way to the first `KVM_RUN` differs from that of `quiet`.
    own_start: bool,
}

fn variants() -> Vec<Variant> {
    let quiet = format!("{PLAIN} quiet");
    let variant = |name, boot, own_start| Variant {
        name,
        boot,
        product: false,
        own_start,
    };
    vec![
        variant("quiet", json!({ "boot_args": quiet }), true),
        variant("verbose", json!({ "boot_args": PLAIN }), false),
        variant("copy", json!({ "boot_args": quiet, "kernel_load": "copy" }), true),
        variant("map", json!({ "boot_args": quiet, "kernel_load": "map" }), true),
        variant("defaults", json!({}), false),
        Variant {
            product: true,
            ..variant("product", json!({}), true)
        },
    ]
}

/// Writes all that the probe needs into `folder`: configs, initial file system, order. Answers with the order.
pub(crate) fn write(folder: &Path, repeats: u32) -> Outcome<Vec<Boot>> {
    let mut boots = Vec::new();
    for variant in variants() {
        let mut source = variant.boot;
        if variant.product {
            merge(&mut source, json!({ "kernel_bundle": format!("{THERE}/bundle") }));
        } else {
            let files = json!({
                "kernel_image_path": format!("{THERE}/bundle/kernel"),
                "initrd_path": format!("{THERE}/initramfs"),
            });
            merge(&mut source, files);
        }
        let config = json!({
            "boot-source": source,
            "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
        });
        let name = format!("{}.json", variant.name);
        fs::write(folder.join(&name), serde_json::to_vec(&config)?)?;
        boots.push(Boot {
            name: variant.name.to_string(),
            argv: [&format!("{THERE}/coracle"), "vm", "run", &format!("{THERE}/run/{name}")]
                .map(str::to_string)
                .to_vec(),
            marker: if variant.product { READY } else { MARKER }.to_string(),
            memory_mib: MEMORY_MIB,
            boots: repeats,
            starts: if variant.own_start { repeats } else { 0 },
        });
    }
    fs::write(folder.join("order.json"), serde_json::to_vec(&boots)?)?;
    Ok(boots)
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// An initial file system with one program, which says that it runs, and the console that it says it on.
pub(crate) fn initramfs(probe: &Path) -> Outcome<Vec<u8>> {
    let mut archive = Archive::new();
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, fs::read(probe)?)?;
    Ok(archive.to_bytes())
}

/// The programs and files of one architecture, as `make bench` builds them.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) coracle: std::path::PathBuf,
    pub(crate) probe: std::path::PathBuf,
    pub(crate) bundle: std::path::PathBuf,
}

impl Inputs {
    /// Finds them, or says which one is missing.
    pub(crate) fn find(arch: HostArch) -> Outcome<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let triple = format!("{arch}-unknown-linux-gnu");
        let built = if arch.is_native() {
            target.clone()
        } else {
            target.join("cross")
        };
        let inputs = Self {
            coracle: if arch.is_native() {
                env!("CARGO_BIN_EXE_coracle").into()
            } else {
                built.join(&triple).join("release/coracle")
            },
            probe: built.join(&triple).join("guest/coracle-probe"),
            bundle: target.join("bundle").join(arch.name()),
        };
        for file in [&inputs.coracle, &inputs.probe, &inputs.bundle.join("manifest.json")] {
            if !file.is_file() {
                return Err(format!("there is no {}: `make bench` makes it", file.display()).into());
            }
        }
        Ok(inputs)
    }
}
