//! KVM's own counters of a vCPU that runs in this process (`Documentation/virt/kvm/api.rst`, `KVM_GET_STATS_FD`).
#![allow(unsafe_code, reason = "asks KVM by ioctl for what the library keeps to itself")]
use crate::Outcome;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
};

const KVM_GET_STATS_FD: libc::Ioctl = 0xaece;
const KVM_GET_TSC_KHZ: libc::Ioctl = 0xaea3;

/// Bytes of `struct kvm_stats_header`, and of `struct kvm_stats_desc` before its name.
const HEADER: usize = 24;
const DESCRIPTION: usize = 16;

/// The counters of one vCPU. They can be read as long as this lives, after the end of the VM too.
#[derive(Debug)]
pub(crate) struct Counters {
    file: File,
    /// Name and offset.
    fields: Vec<(String, u64)>,
    /// The rate of its time-stamp counter.
    pub(crate) tsc_khz: u64,
}

impl Counters {
    /// Those of vCPU 0 of the only VM in this process, which is not running yet.
    pub(crate) fn of_the_vm() -> Outcome<Self> {
        let vcpu = descriptor("anon_inode:kvm-vcpu:0")?;
        let tsc_khz = u64::try_from(ask(vcpu, KVM_GET_TSC_KHZ)?)?;
        let stats = ask(vcpu, KVM_GET_STATS_FD)?;
        // SAFETY: KVM has just made this descriptor, and nobody else knows of it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(stats) });
        let fields = fields(&file)?;
        Ok(Self { file, fields, tsc_khz })
    }

    /// All counters.
    pub(crate) fn read(&self) -> Outcome<BTreeMap<String, u64>> {
        self.fields
            .iter()
            .map(|(name, at)| {
                let mut value = [0; 8];
                self.file.read_exact_at(&mut value, *at)?;
                Ok((name.clone(), u64::from_le_bytes(value)))
            })
            .collect()
    }
}

fn fields(file: &File) -> Outcome<Vec<(String, u64)>> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let mut words = header
        .chunks_exact(4)
        .map(|word| word.try_into().map_or(0, u32::from_le_bytes));
    let (Some(_flags), Some(name), Some(count), Some(_id), Some(descriptions), Some(data)) = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    ) else {
        return Err("KVM's statistics have no header".into());
    };
    let size = DESCRIPTION + name as usize;
    let mut bytes = vec![0; size * count as usize];
    file.read_exact_at(&mut bytes, descriptions.into())?;
    let field = |description: &[u8]| -> Option<(String, u64)> {
        let offset = description.get(8..12)?.try_into().map(u32::from_le_bytes).ok()?;
        let name = description.get(DESCRIPTION..)?.split(|byte| *byte == 0).next()?;
        Some((String::from_utf8_lossy(name).into_owned(), u64::from(data + offset)))
    };
    Ok(bytes.chunks_exact(size).filter_map(field).collect())
}

/// The descriptor of this process that is a link to `target`.
fn descriptor(target: &str) -> Outcome<RawFd> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if let (Ok(link), Some(fd)) = (fs::read_link(&path), name)
            && link.as_os_str() == target
        {
            return Ok(fd);
        }
    }
    Err(format!("this process has no {target}").into())
}

fn ask(fd: RawFd, question: libc::Ioctl) -> Outcome<RawFd> {
    // SAFETY: neither of the two questions has an argument, and the kernel checks the descriptor.
    match unsafe { libc::ioctl(fd, question, 0) } {
        -1 => Err(format!("KVM does not answer {question:#x}: {}", io::Error::last_os_error()).into()),
        answer => Ok(answer),
    }
}
