//! Cargo's runner: executes a test binary here, or in the emulated host where it needs one. On the caller's thread.
use super::{Exec, Host, HostArch, HostError, Options, Signals, Stdin, kvm::kvm_kind, proxy::files_below};
use std::{
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A binary that cargo wants run.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Its architecture.
    pub arch: HostArch,
    /// Itself.
    pub binary: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// It is killed after so long in the host.
    pub limit: Duration,
}

/// Programs that lie beside a test binary and that it may start.
const PROGRAMS: &[&str] = &["coracle", "coracle-guest", "coracle-oci"];

impl Runner {
    /// Whether the binary has to run in the emulated host: if it is of another architecture, or if it needs a KVM
    /// that runs stock kernels, as test files whose names begin with `vm_` do, and this machine has none.
    pub fn needs_host(&self) -> bool {
        !self.arch.is_native() || (needs_kvm(&self.binary) && !kvm_kind().runs_stock_kernels())
    }

    /// Runs it in the host, with what cargo gives it: arguments, variables, working directory, the project's programs
    /// and test data at their own paths. A lost host is started again, once; a failed test is not run again.
    pub fn run(
        &self,
        options: &Options,
        progress: &dyn Fn(&str),
        started: &mut dyn FnMut(Signals),
    ) -> Result<u8, HostError> {
        match self.attempt(options, progress, started) {
            Err(error @ HostError::Lost { .. }) => {
                progress(&format!("{error}; starting it again"));
                self.attempt(options, progress, started)
            }
            outcome => outcome,
        }
    }

    fn attempt(
        &self,
        options: &Options,
        progress: &dyn Fn(&str),
        started: &mut dyn FnMut(Signals),
    ) -> Result<u8, HostError> {
        let host = Host::connect_or_start(self.arch, options, progress)?;
        let binary = std::path::absolute(&self.binary).map_err(|source| HostError::File {
            wish: "run",
            path: self.binary.clone(),
            source,
        })?;
        host.copy_in_once(&self.files(&binary)?)?;
        let mut argv = vec![binary.to_string_lossy().into_owned()];
        argv.extend(self.args.iter().cloned());
        let wanted = |key: &str| {
            ["CARGO_", "CORACLE_", "RUST_"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
        };
        let exec = Exec {
            argv,
            env: env::vars().filter(|(key, _)| wanted(key)).collect(),
            cwd: env::current_dir().ok().map(|dir| dir.to_string_lossy().into_owned()),
            terminal: None,
        };
        let session = host.exec(&exec)?;
        let signals = session.signals();
        started(signals.clone());
        let (ended, over) = std::sync::mpsc::channel::<()>();
        let limit = self.limit;
        let watch = std::thread::Builder::new().name("limit".into()).spawn(move || {
            let late = over.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                signals.send(9);
            }
            late
        });
        let outcome = session.run(Stdin::Inherit, &mut io::stdout(), &mut io::stderr());
        drop(ended);
        if watch.is_ok_and(|thread| thread.join().unwrap_or(false)) {
            progress(&format!("killed after {} seconds", limit.as_secs()));
        }
        outcome
    }

    fn files(&self, binary: &Path) -> Result<Vec<PathBuf>, HostError> {
        let mut roots = vec![binary.to_path_buf()];
        // target/debug/deps/test-0123 uses target/debug/coracle.
        for dir in binary.ancestors().skip(1).take(2) {
            roots.extend(PROGRAMS.iter().map(|name| dir.join(name)));
        }
        if let Some(package) = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from) {
            roots.extend(["resources", "tests"].map(|dir| package.join(dir)));
            roots.push(package.join("target/bundle").join(self.arch.name()));
        }
        roots.extend(env::var_os("CORACLE_BUNDLE").map(PathBuf::from));
        let mut files = Vec::new();
        for root in roots.iter().filter(|root| root.exists()) {
            files.extend(files_below(root).map_err(|source| HostError::File {
                wish: "read",
                path: root.clone(),
                source,
            })?);
        }
        files.dedup();
        Ok(files)
    }
}

/// Whether cargo built it from a test file whose name begins with `vm_`.
fn needs_kvm(binary: &Path) -> bool {
    binary
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("vm_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_of_virtual_machines_and_foreign_ones_need_the_host() {
        let runner = |arch, name: &str| Runner {
            arch,
            binary: PathBuf::from("/t/debug/deps").join(name),
            args: Vec::new(),
            limit: Duration::from_secs(1),
        };
        let native = HostArch::native().unwrap();
        let foreign = HostArch::ALL.into_iter().find(|a| *a != native).unwrap();
        assert!(!runner(native, "config-0123456789abcdef").needs_host());
        assert!(runner(foreign, "config-0123456789abcdef").needs_host());
        let vm = runner(native, "vm_boot-0123456789abcdef").needs_host();
        assert_eq!(vm, !kvm_kind().runs_stock_kernels());
    }
}
