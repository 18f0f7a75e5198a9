//! `coracle kernel`: makes kernel bundles and shows what they are.
use super::{Failure, Outcome, exit};
use coracle::bundle::{self, Added, Architecture, Built, KernelFrom, Manifest, Recipe, Source};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The verbs of `coracle kernel`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Kernel {
    /// Make a kernel bundle from Debian's cloud kernel, or from a kernel of your own
    ///
    /// Packages are downloaded and unpacked into a cache, never installed. Nothing is done if the bundle was made from
    /// the same inputs already.
    Build(Build),
    /// Show what a kernel bundle is, and check its files against their digests
    Show(Show),
}

/// Arguments of `coracle kernel build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// What the kernel runs on: x86_64 or aarch64 [default: this machine's]
    #[arg(long)]
    arch: Option<Architecture>,
    /// Folder of bundles; this one goes into a folder below it, named after the architecture
    #[arg(long, value_name = "DIR", default_value = "target/bundle")]
    out: PathBuf,
    /// Kernel image to use instead of Debian's: bzImage or vmlinux on x86_64, Image on aarch64
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Module tree of that kernel, such as /lib/modules/6.1.0-18-amd64; without it no modules are loaded
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Another module to load at boot, with what it depends on; may be repeated
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Keep the signatures of modules, for a kernel that insists on them; checking them slows the start
    #[arg(long)]
    keep_signatures: bool,
    /// Static coracle-guest program for that architecture [default: the one built beside this program]
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Add a file of this machine to the initramfs; may be repeated
    #[arg(long, value_name = "FILE=PATH", value_parser = parse_added)]
    add: Vec<Added>,
    /// Leave out busybox, and with it the shell
    #[arg(long)]
    without_busybox: bool,
    /// Where downloaded packages are kept [default: coracle/packages in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `coracle kernel show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The bundle's folder
    dir: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
pub(crate) fn run(verb: Kernel) -> Outcome {
    match verb {
        Kernel::Build(arguments) => build(arguments),
        Kernel::Show(arguments) => show(&arguments),
    }
}

fn build(arguments: Build) -> Outcome {
    let arch = arguments.arch.or_else(Architecture::native);
    let arch = arch.ok_or_else(|| {
        let wish = "coracle knows no kernels for this machine's architecture: give --arch x86_64 or --arch aarch64";
        Failure::new(exit::BAD_ARGUMENTS, wish)
    })?;
    let recipe = Recipe {
        arch,
        kernel: match arguments.kernel {
            Some(kernel) => KernelFrom::Files {
                kernel,
                modules: arguments.modules,
            },
            None => KernelFrom::Debian,
        },
        guest: arguments.guest.unwrap_or_else(|| default_guest(arch)),
        busybox: !arguments.without_busybox,
        modules: arguments.module,
        keep_signatures: arguments.keep_signatures,
        added: arguments.add,
        cache: arguments.cache.unwrap_or_else(bundle::default_cache),
    };
    let folder = arguments.out.join(arch.name());
    let Built { manifest, changed } = recipe.build(&folder, &|step| eprintln!("coracle: {step}"))?;
    if !manifest.absent_modules.is_empty() && changed && !manifest.modules.is_empty() {
        eprintln!("coracle: this kernel has no {}", manifest.absent_modules.join(", "));
    }
    print(&manifest, &folder, arguments.json)?;
    Ok(0)
}

fn show(arguments: &Show) -> Outcome {
    let manifest = Manifest::read(&arguments.dir)?;
    print(&manifest, &arguments.dir, arguments.json)?;
    let changed = manifest.changed_files(&arguments.dir)?;
    if changed.is_empty() {
        return Ok(0);
    }
    let wrong = format!(
        "{} of the bundle {} changed since it was made: make it anew with `coracle kernel build`",
        changed.join(", "),
        arguments.dir.display()
    );
    Err(Failure::new(exit::GENERIC, wrong))
}

fn print(manifest: &Manifest, folder: &Path, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, manifest)?;
        return writeln!(out);
    }
    let source = match &manifest.source {
        Source::DebianPackage { package, version } => format!("Debian package {package} {version}"),
        Source::Files { kernel, .. } => kernel.clone(),
    };
    writeln!(out, "{}", folder.display())?;
    writeln!(out, "  arch     {}", manifest.arch)?;
    writeln!(
        out,
        "  kernel   {}",
        manifest.kernel_version.as_deref().unwrap_or("of unknown version")
    )?;
    writeln!(out, "  source   {source}")?;
    writeln!(out, "  busybox  {}", manifest.busybox.as_deref().unwrap_or("none"))?;
    writeln!(out, "  modules  {}", manifest.modules.join(" "))?;
    for (name, facts) in &manifest.files {
        writeln!(out, "  {name:9}{:>9} bytes  sha256:{}", facts.size, facts.sha256)?;
    }
    Ok(())
}

/// Where `make guest` leaves the guest program of an architecture, seen from this program; else beside this program.
fn default_guest(arch: Architecture) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.with_file_name(format!("coracle-guest-{arch}"));
    let triple = format!("{arch}-unknown-linux-gnu/guest/coracle-guest");
    let targets = program.ancestors().skip(1).take(4);
    let built = targets.flat_map(|target| [target.join(&triple), target.join("cross").join(&triple)]);
    built.into_iter().find(|path| path.is_file()).unwrap_or(beside)
}

fn parse_added(text: &str) -> Result<Added, String> {
    match text.rsplit_once('=') {
        Some((file, path)) if !file.is_empty() && !path.trim_matches('/').is_empty() => Ok(Added {
            file: PathBuf::from(file),
            path: path.to_string(),
        }),
        _ => Err("give a file of this machine and its path in the guest, such as ./tool=/bin/tool".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_file_has_both_names() {
        let added = parse_added("./a=b=/bin/c").unwrap();
        assert_eq!(
            added,
            Added {
                file: "./a=b".into(),
                path: "/bin/c".into()
            }
        );
        for wrong in ["", "=", "a=", "=b", "a=/", "a"] {
            assert!(parse_added(wrong).is_err(), "{wrong:?}");
        }
    }
}
