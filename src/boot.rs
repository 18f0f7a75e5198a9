//! What to boot: the kernel and the initrd as open files, and the command line. Opened once per VM; a reset loads them
//! again from the same descriptors, so a file that is replaced meanwhile changes nothing.
use crate::{
    bundle::{Manifest, ManifestError},
    config::spec::{BootSource, BootSpec, ConsoleSpec, KernelLoad, MemorySpec, Protocol},
    memory::{GuestRam, MemoryError, PAGE},
};
use coracle_arch::{
    Arch, Host,
    kernel::{self, BootProtocol, Format, KernelError, KernelImage, Segment, Target},
};
use coracle_protocol::cmdline;
use rustix::fs::MemfdFlags;
use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Bytes that one thread copies at a time: whole huge pages, so that no two threads fault in the same one.
const PIECE: u64 = 2 << 20;
/// Threads that copy at most; more do not find more memory bandwidth.
const COPIERS: usize = 4;

/// Why a VM cannot be booted from its spec.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be opened.
    #[error("cannot open {what} {path:?} ({key}); check the path and its permissions")]
    Open {
        /// "the kernel" or "the initrd".
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The config key that names it.
        key: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The path is no file.
    #[error("{path:?} ({key}) is {found}, not a file; give the path of {what}")]
    NoFile {
        /// "the kernel" or "the initrd".
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The config key that names it.
        key: &'static str,
        /// "a folder", "empty", ...
        found: &'static str,
    },
    /// The image cannot be booted.
    #[error("cannot boot {path:?} (boot-source.kernel_image_path)")]
    Kernel {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: KernelError,
    },
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] ManifestError),
    /// The bundle is for another architecture.
    #[error(
        "the kernel bundle {folder:?} is for {found}, this machine is {wanted}; make one with \
         `coracle kernel build --arch {wanted}`"
    )]
    BundleArch {
        /// The bundle.
        folder: PathBuf,
        /// Its architecture.
        found: &'static str,
        /// This machine's.
        wanted: &'static str,
    },
    /// The command line is too long.
    #[error(
        "the kernel command line has {length} bytes, but a kernel for {arch} takes at most {limit}; shorten \
         boot-source.boot_args"
    )]
    Cmdline {
        /// Bytes.
        length: usize,
        /// Bytes allowed.
        limit: usize,
        /// The architecture.
        arch: &'static str,
    },
    /// The initrd finds no room.
    #[error("the initrd has {mib} MiB and does not fit beside the kernel; raise machine-config.mem_size_mib")]
    InitrdTooBig {
        /// Its size.
        mib: u64,
    },
    /// Bytes could not be placed in guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A decompressed kernel could not be kept.
    #[error("cannot hold the decompressed kernel in memory")]
    Decompressed(#[source] io::Error),
}

/// An open file and its length in bytes.
struct Opened {
    file: File,
    length: u64,
}

/// What to boot, opened and understood.
pub(crate) struct Boot {
    kernel: Opened,
    image: KernelImage,
    initrd: Option<Opened>,
    cmdline: String,
    load: KernelLoad,
    has_agent: bool,
}

impl Boot {
    /// Opens the files of a spec and reads the kernel's headers.
    pub(crate) fn open(spec: &BootSpec, memory: MemorySpec, console: ConsoleSpec) -> Result<Self, BootError> {
        let (kernel_path, initrd_path, keys) = match &spec.source {
            BootSource::Files { kernel, initrd } => (
                kernel.clone(),
                initrd.clone(),
                ("boot-source.kernel_image_path", "boot-source.initrd_path"),
            ),
            BootSource::Bundle(folder) => {
                let folder = bundle_folder(folder)?;
                let key = "boot-source.kernel_bundle";
                (folder.join("kernel"), Some(folder.join("initramfs")), (key, key))
            }
        };
        let cmdline = compose_cmdline(spec, console)?;
        let opened = open_file("the kernel", &kernel_path, keys.0)?;
        let (kernel, image) = understand(opened, &kernel_path, spec.protocol, memory)?;
        let initrd = initrd_path
            .map(|path| open_file("the initrd", &path, keys.1))
            .transpose()?;
        let has_agent = matches!(spec.source, BootSource::Bundle(_));
        Ok(Self {
            kernel,
            image,
            initrd,
            cmdline,
            load: spec.load,
            has_agent,
        })
    }

    /// Whether PID 1 of this guest reports to the VMM.
    pub(crate) fn has_agent(&self) -> bool {
        self.has_agent
    }

    pub(crate) fn protocol(&self) -> &BootProtocol {
        &self.image.protocol
    }

    pub(crate) fn cmdline(&self) -> &str {
        &self.cmdline
    }

    /// Puts the kernel and the initrd into fresh guest memory; answers where the initrd is.
    pub(crate) fn load(&self, ram: &GuestRam) -> Result<Option<Range<u64>>, BootError> {
        let mut copies = Vec::new();
        for segment in &self.image.segments {
            let copied = self.map_segment(ram, segment)?;
            copies.extend(
                copied
                    .into_iter()
                    .flat_map(|(bytes, at)| pieces("the kernel", &self.kernel.file, bytes, at)),
            );
        }
        let mut place = None;
        if let Some(initrd) = &self.initrd {
            let too_big = || BootError::InitrdTooBig {
                mib: initrd.length.div_ceil(1 << 20),
            };
            let at = Host::initrd_address(ram.ranges(), &self.image.span, initrd.length).ok_or_else(too_big)?;
            copies.extend(pieces("the initrd", &initrd.file, 0..initrd.length, at));
            place = Some(at..at + initrd.length);
        }
        copy_all(ram, &copies)?;
        Ok(place)
    }

    /// Maps what the spec wants mapped and can be; answers what is left to copy: bytes and where they go.
    fn map_segment(&self, ram: &GuestRam, segment: &Segment) -> Result<Vec<(Range<u64>, u64)>, MemoryError> {
        let Segment { image, at, .. } = segment;
        // Only pages that lie in the file as they will lie in memory can be mapped.
        let start = image.start.next_multiple_of(PAGE);
        let end = image.end - image.end % PAGE;
        if self.load != KernelLoad::Map || image.start % PAGE != at % PAGE || start >= end {
            return Ok(vec![(image.clone(), *at)]);
        }
        let place = |byte| at + (byte - image.start);
        ram.map_in("the kernel", &self.kernel.file, start..end, place(start))?;
        Ok(vec![(image.start..start, *at), (end..image.end, place(end))])
    }
}

/// Bytes of a file on their way into guest memory.
struct Copy<'a> {
    what: &'static str,
    file: &'a File,
    bytes: Range<u64>,
    at: u64,
}

/// Cuts a copy where guest memory has the border of a huge page.
fn pieces<'a>(what: &'static str, file: &'a File, bytes: Range<u64>, at: u64) -> impl Iterator<Item = Copy<'a>> {
    let mut start = bytes.start;
    std::iter::from_fn(move || {
        let to = at + (start - bytes.start);
        let end = bytes.end.min(start + (PIECE - to % PIECE));
        let piece = (start < end).then_some(Copy {
            what,
            file,
            bytes: start..end,
            at: to,
        });
        start = end;
        piece
    })
}

/// Copies on as many threads as there are CPUs to run them.
fn copy_all(ram: &GuestRam, copies: &[Copy<'_>]) -> Result<(), MemoryError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), MemoryError> {
        while let Some(copy) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
            ram.copy_in(copy.what, copy.file, copy.bytes.clone(), copy.at)?;
        }
        Ok(())
    };
    // Not available_parallelism: it asks for cgroup quotas, and the kernel keeps its cgroup lock while it creates a VM.
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    let helpers = cpus.clamp(1, COPIERS) - 1;
    thread::scope(|scope| {
        // A thread that cannot be had is one fewer to copy.
        let helpers: Vec<_> = (0..helpers)
            .filter_map(|_| {
                thread::Builder::new()
                    .name("copier".into())
                    .spawn_scoped(scope, work)
                    .ok()
            })
            .collect();
        let own = work();
        helpers
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .fold(own, Result::and)
    })
}

/// The bundle for this architecture: the folder itself, or the one that it holds for it.
fn bundle_folder(folder: &Path) -> Result<PathBuf, BootError> {
    let own = folder.join(Host::NAME);
    let folder = if own.join("manifest.json").exists() {
        own
    } else {
        folder.to_owned()
    };
    let manifest = Manifest::read(&folder)?;
    if manifest.arch.name() == Host::NAME {
        Ok(folder)
    } else {
        Err(BootError::BundleArch {
            folder,
            found: manifest.arch.name(),
            wanted: Host::NAME,
        })
    }
}

fn open_file(what: &'static str, path: &Path, key: &'static str) -> Result<Opened, BootError> {
    let open = |source| BootError::Open {
        what,
        path: path.to_owned(),
        key,
        source,
    };
    let file = File::open(path).map_err(open)?;
    let metadata = file.metadata().map_err(open)?;
    let found = match metadata.len() {
        _ if metadata.is_dir() => "a folder",
        _ if !metadata.is_file() => "a device or a pipe",
        0 => "empty",
        length => return Ok(Opened { file, length }),
    };
    Err(BootError::NoFile {
        what,
        path: path.to_owned(),
        key,
        found,
    })
}

/// Finds out how to load and enter the kernel, decompressing it first where its format has no decompressor of its own.
fn understand(
    opened: Opened,
    path: &Path,
    protocol: Protocol,
    memory: MemorySpec,
) -> Result<(Opened, KernelImage), BootError> {
    let kernel = |source| BootError::Kernel {
        path: path.to_owned(),
        source,
    };
    let opened = match kernel::format(&opened.file, opened.length).map_err(kernel)? {
        Format::Gzip => {
            let bytes = kernel::decompress(&opened.file, memory.bytes).map_err(kernel)?;
            hold(&bytes).map_err(BootError::Decompressed)?
        }
        _ => opened,
    };
    let protocol = match protocol {
        Protocol::Auto => None,
        Protocol::Linux64 => Some(kernel::Protocol::Linux64),
        Protocol::Pvh => Some(kernel::Protocol::Pvh),
    };
    let ram = Host::memory_ranges(memory.bytes);
    let target = Target {
        machine: Host::NAME,
        ram: &ram,
        protocol,
    };
    let image = kernel::parse(&opened.file, opened.length, &target).map_err(kernel)?;
    Ok((opened, image))
}

/// Keeps bytes in an anonymous file, so that they load as any other.
fn hold(bytes: &[u8]) -> io::Result<Opened> {
    let mut file = File::from(rustix::fs::memfd_create("kernel", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(Opened {
        file,
        length: bytes.len() as u64,
    })
}

/// The architecture's default, for the consoles that there are.
///
/// The kernel of a bundle always gets a driver for the virtio console, a little after PID 1 starts. Until then it talks
/// through the serial port by its early console, which it then gives up by itself: nothing is said twice. Of another
/// kernel nobody knows whether it ever has that driver; so it gets both consoles, and programs get the virtio one if it is
/// there when they open theirs.
fn default_cmdline(spec: &BootSpec, console: ConsoleSpec) -> String {
    let serial = "console=ttyS0";
    let default = Host::DEFAULT_CMDLINE;
    match spec.source {
        _ if !console.virtio => default.to_owned(),
        // Last, so that `quiet` counts already when it begins to talk.
        BootSource::Bundle(_) => default.replacen(serial, "console=hvc0", 1) + " " + Host::EARLY_CONSOLE,
        BootSource::Files { .. } => default.replacen(serial, &format!("{serial} console=hvc0"), 1),
    }
}

/// The default or the given arguments, with the root device and the guest's command before a lone `--`: what follows that
/// is for PID 1 and stays last.
fn compose_cmdline(spec: &BootSpec, console: ConsoleSpec) -> Result<String, BootError> {
    let given = match &spec.cmdline {
        Some(given) => given.trim().to_owned(),
        None => default_cmdline(spec, console),
    };
    let mut cmdline = given.clone();
    let root = spec.root.iter().map(|root| format!("{root} "));
    let command =
        (!spec.command.is_empty()).then(|| format!("{}={} ", cmdline::EXEC, cmdline::encode_exec(&spec.command)));
    let added: String = root.chain(command).collect();
    if !added.is_empty() {
        let end = given.match_indices("--").map(|(at, _)| at).find(|&at| {
            let (before, after) = (
                given.get(..at).unwrap_or_default(),
                given.get(at + 2..).unwrap_or_default(),
            );
            let apart = |c: Option<char>| c.is_none_or(char::is_whitespace);
            apart(before.chars().next_back()) && apart(after.chars().next())
        });
        match end {
            Some(at) => cmdline.insert_str(at, &added),
            None => format!("{given} {}", added.trim_end())
                .trim_start()
                .clone_into(&mut cmdline),
        }
    }
    let (length, limit) = (cmdline.len(), Host::MAX_CMDLINE);
    if length > limit {
        return Err(BootError::Cmdline {
            length,
            limit,
            arch: Host::NAME,
        });
    }
    Ok(cmdline)
}

#[cfg(test)]
mod tests;
