//! Makes a kernel bundle: gathers the inputs, compares them with what the last bundle was made from, and only then
//! reads, unpacks and packs. Runs on the caller's thread; the bundle's folder is replaced whole or not at all.
use super::{
    BundleError,
    debian::Package,
    initramfs::{self, Contents, Piece},
    inputs::Inputs,
    manifest::{Architecture, FORMAT, FileFacts, Manifest, Source},
    modules::{self, Module, Tree},
    payload,
    store::{self, Lock, StoreError},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Modules that every bundle has.
const MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
];

/// Modules that serve the power button and the report of a panic, where the kernel has them.
const fn modules_if_there(arch: Architecture) -> &'static [&'static str] {
    match arch {
        Architecture::X86_64 => &["button", "evdev", "pvpanic_mmio"],
        // The button is a GPIO line, which needs no module.
        Architecture::Aarch64 => &["pvpanic_mmio"],
    }
}

/// What a bundle shall be made from.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What the kernel runs on.
    pub arch: Architecture,
    /// The kernel and its modules.
    pub kernel: KernelFrom,
    /// The static `coracle-guest` that becomes PID 1.
    pub guest: PathBuf,
    /// Whether the initramfs gets a shell and the usual tools.
    pub busybox: bool,
    /// Modules beyond those that every bundle has.
    pub modules: Vec<String>,
    /// Whether modules keep their signatures, for kernels that insist on them.
    pub keep_signatures: bool,
    /// Files to add to the initramfs.
    pub added: Vec<Added>,
    /// Where Debian packages are kept.
    pub cache: PathBuf,
}

/// Where a kernel comes from.
#[derive(Debug, Clone)]
pub enum KernelFrom {
    /// The cloud kernel that Debian's meta package points at.
    Debian,
    /// Files of the user.
    Files {
        /// bzImage or vmlinux on x86_64, Image (also compressed) on aarch64.
        kernel: PathBuf,
        /// The folder of one release below `lib/modules`; without it nothing is loaded.
        modules: Option<PathBuf>,
    },
}

/// A file that is added to the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The file here.
    pub file: PathBuf,
    /// Where it goes.
    pub path: String,
}

/// What [`Recipe::build`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// False if the bundle was there already.
    pub changed: bool,
}

/// The recipe with all its ingredients found.
struct Gathered {
    source: Source,
    release: Option<String>,
    kernel: PathBuf,
    modules: Vec<Module>,
    absent: Vec<String>,
    busybox: Option<(String, PathBuf)>,
}

impl Recipe {
    /// Makes the bundle in `folder`, or leaves it alone if it was made from the same inputs.
    ///
    /// Safe against other processes that do the same, and against being killed: `folder` holds the old bundle or the
    /// new one. `progress` hears of long steps.
    pub fn build(&self, folder: &Path, progress: &dyn Fn(&str)) -> Result<Built, BundleError> {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        check_place(folder)?;
        let gathered = self.gather(progress)?;
        let _lock = Lock::take(parent, progress)?;
        let inputs = self.inputs(&gathered, folder)?;
        if let Some(manifest) = up_to_date(folder, &inputs.digest()) {
            return Ok(Built {
                manifest,
                changed: false,
            });
        }
        let mut made = None;
        store::replace_folder(folder, |new| -> Result<(), BundleError> {
            made = Some(self.make(gathered, &inputs, new, progress)?);
            Ok(())
        })?;
        made.map(|manifest| Built {
            manifest,
            changed: true,
        })
        .ok_or(BundleError::Empty)
    }

    fn gather(&self, progress: &dyn Fn(&str)) -> Result<Gathered, BundleError> {
        let debian = self.arch.debian();
        let busybox = if self.busybox {
            let package = Package::fetch("busybox-static", debian, &self.cache, progress)?;
            Some((package.record.version, package.tree.join("bin/busybox")))
        } else {
            None
        };
        let (source, kernel, tree) = match &self.kernel {
            KernelFrom::Debian => {
                let meta = format!("linux-image-cloud-{debian}");
                let package = Package::fetch_dependency((&meta, "linux-image-"), debian, &self.cache, progress)?;
                let tree = Tree::open(&package.tree.join("lib/modules"))?;
                let kernel = package.tree.join("boot").join(format!("vmlinuz-{}", tree.release()));
                let source = Source::DebianPackage {
                    package: package.record.name,
                    version: package.record.version,
                };
                (source, kernel, Some(tree))
            }
            KernelFrom::Files { kernel, modules } => {
                let source = Source::Files {
                    kernel: kernel.display().to_string(),
                    modules: modules.as_ref().map(|folder| folder.display().to_string()),
                };
                let tree = modules.as_deref().map(Tree::open).transpose()?;
                (source, kernel.clone(), tree)
            }
        };
        let (modules, absent) = self.choose_modules(tree.as_ref())?;
        Ok(Gathered {
            source,
            release: tree.map(|tree| tree.release().to_string()),
            kernel,
            modules,
            absent,
            busybox,
        })
    }

    /// The modules in load order, and the names of optional ones that the kernel lacks.
    fn choose_modules(&self, tree: Option<&Tree>) -> Result<(Vec<Module>, Vec<String>), BundleError> {
        let Some(tree) = tree else {
            return match self.modules.first() {
                Some(name) => Err(BundleError::NoTreeFor(name.clone())),
                None => Ok((Vec::new(), Vec::new())),
            };
        };
        let (there, absent): (Vec<&str>, Vec<&str>) =
            modules_if_there(self.arch).iter().partition(|name| tree.has(name));
        let asked = self.modules.iter().map(String::as_str);
        let names: Vec<&str> = MODULES.iter().copied().chain(there).chain(asked).collect();
        let absent = absent.into_iter().map(str::to_string).collect();
        Ok((tree.resolve(&names)?, absent))
    }

    fn inputs(&self, gathered: &Gathered, folder: &Path) -> Result<Inputs, BundleError> {
        let mut inputs = Inputs::remembering(&folder.join(".inputs.json"));
        inputs.fact("format", &FORMAT.to_string());
        inputs.fact("made by", MADE_BY);
        inputs.fact("layout", initramfs::LAYOUT);
        inputs.fact("arch", self.arch.name());
        inputs.fact("source", &format!("{:?}", gathered.source));
        inputs.fact("keep signatures", &self.keep_signatures.to_string());
        inputs.fact("absent", &gathered.absent.join(" "));
        inputs.file("kernel", &gathered.kernel)?;
        inputs.file("guest", &self.guest).map_err(|source| BundleError::Guest {
            arch: self.arch,
            path: self.guest.clone(),
            source,
        })?;
        for module in &gathered.modules {
            inputs.file(&format!("module {}", module.name), &module.path)?;
        }
        if let Some((version, path)) = &gathered.busybox {
            inputs.file(&format!("busybox {version}"), path)?;
        }
        for added in &self.added {
            inputs.file(
                &format!("added {} {:o}", added.path, permissions(&added.file)?),
                &added.file,
            )?;
        }
        Ok(inputs)
    }

    fn make(
        &self,
        gathered: Gathered,
        inputs: &Inputs,
        new: &Path,
        progress: &dyn Fn(&str),
    ) -> Result<Manifest, BundleError> {
        progress(&format!("making the {} kernel bundle", self.arch));
        let mut files = BTreeMap::new();
        let mut put = |name: &str, bytes: &[u8]| {
            files.insert(name.to_string(), FileFacts::of(bytes));
            write(&new.join(name), bytes)
        };
        let image = read(&gathered.kernel)?;
        match self.arch {
            Architecture::X86_64 => put_x86(&image, &mut put, progress)?,
            Architecture::Aarch64 => put("kernel", &arm_image(image, &gathered.kernel)?)?,
        }
        put("initramfs", &self.contents(&gathered)?.lay_out()?.to_bytes())?;
        let manifest = Manifest {
            format: FORMAT,
            arch: self.arch,
            kernel_version: gathered.release,
            source: gathered.source,
            files,
            modules: gathered.modules.into_iter().map(|module| module.name).collect(),
            absent_modules: gathered.absent,
            busybox: gathered.busybox.map(|(version, _)| version),
            made_by: MADE_BY.to_string(),
            inputs_sha256: inputs.digest(),
        };
        write(&new.join("manifest.json"), &store::json(&manifest))?;
        write(&new.join(".inputs.json"), &inputs.to_json())?;
        Ok(manifest)
    }

    fn contents(&self, gathered: &Gathered) -> Result<Contents, BundleError> {
        let init = read(&self.guest)?;
        check_program(&init, self.arch).map_err(|wrong| BundleError::GuestProgram {
            path: self.guest.clone(),
            wrong,
            arch: self.arch,
        })?;
        let modules = gathered.modules.iter().map(|module| {
            let bytes = module.read()?;
            let bytes = if self.keep_signatures {
                bytes
            } else {
                modules::without_signature(bytes)
            };
            Ok((module.name.clone(), bytes))
        });
        let added = self.added.iter().map(|added| {
            Ok(Piece {
                path: added.path.clone(),
                permissions: permissions(&added.file)?,
                bytes: read(&added.file)?,
            })
        });
        Ok(Contents {
            init,
            modules: modules.collect::<Result<_, BundleError>>()?,
            busybox: gathered.busybox.as_ref().map(|(_, path)| read(path)).transpose()?,
            added: added.collect::<Result<_, BundleError>>()?,
        })
    }
}

const MADE_BY: &str = concat!("coracle ", env!("CARGO_PKG_VERSION"));

/// Refuses to replace a folder that is full of something else.
fn check_place(folder: &Path) -> Result<(), BundleError> {
    let Ok(mut entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    if entries.next().is_none() || folder.join("manifest.json").is_file() {
        return Ok(());
    }
    Err(BundleError::Occupied(folder.to_path_buf()))
}

fn up_to_date(folder: &Path, digest: &str) -> Option<Manifest> {
    let manifest = Manifest::read(folder).ok()?;
    let whole = manifest
        .files
        .iter()
        .all(|(name, facts)| facts.size_fits(&folder.join(name)));
    (whole && manifest.inputs_sha256 == digest && manifest.format == FORMAT).then_some(manifest)
}

/// The ELF kernel, and the bzImage beside it if that is what was given.
fn put_x86(
    image: &[u8],
    put: &mut impl FnMut(&str, &[u8]) -> Result<(), StoreError>,
    progress: &dyn Fn(&str),
) -> Result<(), BundleError> {
    if is_elf(image, Architecture::X86_64) {
        return Ok(put("kernel", image)?);
    }
    match payload::vmlinux(image) {
        Ok(kernel) => put("kernel", &kernel)?,
        Err(error @ (payload::PayloadError::UnknownFormat(_) | payload::PayloadError::Program(..))) => {
            progress(&format!("the bzImage is used as it is: {error}"));
            put("kernel", image)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(put("bzImage", image)?)
}

/// An arm64 Image, unpacked if need be (`Documentation/arch/arm64/booting.rst`: the magic number at 56).
fn arm_image(image: Vec<u8>, path: &Path) -> Result<Vec<u8>, BundleError> {
    let is_image = |bytes: &[u8]| bytes.get(56..60) == Some(b"ARM\x64");
    let image = if is_image(&image) {
        image
    } else {
        payload::decompress(&image)?
    };
    if is_image(&image) {
        Ok(image)
    } else {
        Err(BundleError::NoArmImage(path.to_path_buf()))
    }
}

fn is_elf(bytes: &[u8], arch: Architecture) -> bool {
    bytes.starts_with(b"\x7fELF\x02\x01") && bytes.get(18..20) == Some(&arch.elf_machine().to_le_bytes())
}

/// A dynamic program would fail to start as PID 1, long after and far from the cause.
fn check_program(bytes: &[u8], arch: Architecture) -> Result<(), &'static str> {
    if !is_elf(bytes, arch) {
        return Err("it is no program of this architecture");
    }
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let table = bytes
        .get(0x20..0x28)
        .and_then(|field| field.try_into().ok())
        .map(u64::from_le_bytes);
    let headers = table.zip(half(0x36)).zip(half(0x38));
    let Some(((table, size), count)) = headers else {
        return Err("it is cut short");
    };
    // PT_INTERP, System V ABI, chapter 5.
    let wants_loader = (0..count).any(|index| {
        let at = usize::try_from(table)
            .ok()
            .and_then(|table| table.checked_add(index * size));
        at.and_then(|at| bytes.get(at..at.checked_add(4)?)) == Some(&[3, 0, 0, 0])
    });
    if wants_loader {
        Err("it is linked dynamically")
    } else {
        Ok(())
    }
}

fn permissions(path: &Path) -> Result<u32, StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = fs::metadata(path).map_err(|e| StoreError::io("read", path, e))?;
    Ok(meta.permissions().mode() & 0o777)
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|e| StoreError::io("read", path, e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    fs::write(path, bytes).map_err(|e| StoreError::io("write", path, e))
}

#[cfg(test)]
mod tests;
