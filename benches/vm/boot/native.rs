//! The native part: how long this machine's own KVM and wall clock see from exec to the guest's first instructions.
//!
//! The guest is the bundle's kernel with its first instructions replaced: they write one byte to the serial port and
//! halt. So everything up to the first `KVM_RUN` is that of a real boot, no tracer is in the way, and any KVM will do.
use crate::{
    Outcome,
    emulated::{Inputs, MEMORY_MIB},
};
use coracle::host::{HostArch, kvm_kind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// An odd number of runs, so that one of them is the median.
const RUNS: usize = 11;

/// `mov al, '!'; mov edx, 0x3f8; out dx, al; hlt; jmp` back to `hlt`: the same in 32-bit and in 64-bit mode.
const ENTRY: &[u8] = b"\xb0!\xba\xf8\x03\x00\x00\xee\xf4\xeb\xfd";

/// Wall time from exec to the guest's first byte.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Native {
    /// What KVM it is.
    pub(crate) kvm: String,
    pub(crate) runs: usize,
    pub(crate) min_ms: f64,
    pub(crate) median_ms: f64,
    pub(crate) max_ms: f64,
}

/// Measures, if this machine is an x86_64 one with a KVM.
pub(crate) fn measure(folder: &Path) -> Outcome<Native> {
    if HostArch::native() != Some(HostArch::X86_64) {
        return Err("this part knows the first instructions of x86_64 alone".into());
    }
    File::options().read(true).write(true).open("/dev/kvm")?;
    let inputs = Inputs::find(HostArch::X86_64)?;
    fs::create_dir_all(folder)?;
    let (kernel, config) = (folder.join("kernel"), folder.join("native.json"));
    fs::copy(inputs.bundle.join("kernel"), &kernel)?;
    replace_entry(&kernel)?;
    let text = json!({
        // By its 64-bit entry: that is the one that was replaced.
        "boot-source": { "kernel_image_path": kernel, "initrd_path": inputs.bundle.join("initramfs"), "protocol": "linux64" },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
    });
    fs::write(&config, serde_json::to_vec(&text)?)?;
    // The first one finds cold caches.
    start(&inputs.coracle, &config)?;
    let mut times = (0..RUNS)
        .map(|_| start(&inputs.coracle, &config))
        .collect::<Outcome<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    Ok(Native {
        kvm: kvm_kind().to_string(),
        runs: RUNS,
        min_ms: at(0),
        median_ms: at(RUNS / 2),
        max_ms: at(RUNS - 1),
    })
}

/// Starts a VMM, waits for the byte, kills the VMM. Answers with wall ms.
fn start(coracle: &Path, config: &Path) -> Outcome<f64> {
    let mut command = Command::new(coracle);
    command.args(["vm", "run", "--host", "kvm"]).arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut byte = [0];
    let read = child.stdout.as_mut().map(|console| console.read_exact(&mut byte));
    let time = begin.elapsed().as_secs_f64() * 1e3;
    child.kill()?;
    child.wait()?;
    match read {
        Some(Ok(())) if byte == *b"!" => Ok((time * 1e3).round() / 1e3),
        _ => Err("the guest's first byte did not come".into()),
    }
}

/// Writes [`ENTRY`] over the entry point of a 64-bit ELF image.
fn replace_entry(kernel: &Path) -> Outcome<()> {
    let file = File::options().read(true).write(true).open(kernel)?;
    let number = |at: u64, size: usize| -> Outcome<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(bytes.get_mut(..size).unwrap_or_default(), at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    // ELF-64: e_entry at 24, e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let entry = number(24, 8)?;
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for header in (0..count).map(|index| table + index * size) {
        // Type, offset, physical address and size in the file of a segment; 1 is PT_LOAD.
        let (kind, offset) = (number(header, 4)?, number(header + 8, 8)?);
        let (at, length) = (number(header + 24, 8)?, number(header + 32, 8)?);
        if kind == 1 && (at..at + length).contains(&entry) {
            file.write_all_at(ENTRY, offset + (entry - at))?;
            return Ok((&file).flush()?);
        }
    }
    Err(format!("{} has no segment with its entry point", kernel.display()).into())
}
