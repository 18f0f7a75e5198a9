//! `manifest.json`: what a kernel bundle is, what it was made from, and the digests of its files.
use super::store::{self, StoreError};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, io, path::Path, str::FromStr};

/// Version of the manifest's format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// Why a folder is no kernel bundle.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No manifest can be read.
    #[error("{folder} holds no readable manifest.json: make a bundle with `coracle kernel build`")]
    Read {
        /// The folder.
        folder: String,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is not what this version writes.
    #[error("the manifest.json of {folder} is not understood: make the bundle anew with `coracle kernel build`")]
    Parse {
        /// The folder.
        folder: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A later version wrote it.
    #[error(
        "the manifest.json of {folder} has format {format}, this coracle knows up to {FORMAT}: use a newer coracle or make the bundle anew"
    )]
    Format {
        /// The folder.
        folder: String,
        /// The format found.
        format: u32,
    },
}

/// An architecture that coracle makes bundles for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// The architecture of this machine, if coracle knows it.
    pub fn native() -> Option<Self> {
        std::env::consts::ARCH.parse().ok()
    }

    /// As in `uname -m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian calls it.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// `e_machine` of its ELF files.
    pub(crate) const fn elf_machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            _ => Err(format!(
                "{text:?} is no architecture that coracle knows: give x86_64 or aarch64"
            )),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// What the kernel runs on.
    pub arch: Architecture,
    /// The kernel release, as in `uname -r`; absent where a bare kernel was given.
    pub kernel_version: Option<String>,
    /// Where kernel and modules come from.
    pub source: Source,
    /// The bundle's files beside this one.
    pub files: BTreeMap<String, FileFacts>,
    /// Modules in the initramfs, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// Modules that would have been taken if the kernel had them.
    pub absent_modules: Vec<String>,
    /// The busybox in the initramfs, as a Debian version, if there is one.
    pub busybox: Option<String>,
    /// What made the bundle.
    pub made_by: String,
    /// SHA-256 over everything that went in; the same digest means the same bundle.
    pub inputs_sha256: String,
}

/// Where kernel and modules come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A Debian package.
    DebianPackage {
        /// Its name.
        package: String,
        /// Its version.
        version: String,
    },
    /// Files of the user.
    Files {
        /// The kernel image.
        kernel: String,
        /// The module tree.
        modules: Option<String>,
    },
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of the bundle in `folder`.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let name = || folder.display().to_string();
        let bytes =
            fs::read(folder.join("manifest.json")).map_err(|source| ManifestError::Read { folder: name(), source })?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|source| ManifestError::Parse { folder: name(), source })?;
        if manifest.format > FORMAT {
            return Err(ManifestError::Format {
                folder: name(),
                format: manifest.format,
            });
        }
        Ok(manifest)
    }

    /// The names of files in `folder` that are not what the manifest says. Reads them whole.
    pub fn changed_files(&self, folder: &Path) -> Result<Vec<String>, StoreError> {
        let mut changed = Vec::new();
        for (name, facts) in &self.files {
            let path = folder.join(name);
            if !facts.size_fits(&path) || store::sha256_of_file(&path)? != facts.sha256 {
                changed.push(name.clone());
            }
        }
        Ok(changed)
    }
}

impl FileFacts {
    /// The facts of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            size: bytes.len() as u64,
            sha256: store::sha256(bytes),
        }
    }

    /// Whether there is a file of this size.
    pub(crate) fn size_fits(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == self.size)
    }
}
