//! Runs coracle itself in the emulated host, with the files that it needs, as if it ran here. On the caller's thread.
use super::{Exec, Host, HostArch, HostError, Options, Signals, Stdin, Window, find_sibling};
use std::{
    env, io,
    path::{Path, PathBuf},
};

/// What to run in the host.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// Arguments of coracle, without the program's name.
    pub args: Vec<String>,
    /// Files, or folders of files, that it reads; they get the same absolute paths there. What the host still has
    /// from before is not sent again.
    pub files_in: Vec<PathBuf>,
    /// Files that it writes; they come back to the same absolute paths. Missing ones are left out.
    pub files_out: Vec<PathBuf>,
    /// Variables beyond `RUST_LOG` and those that begin with `CORACLE_`.
    pub env: Vec<(String, String)>,
    /// Run it on a terminal of this size. The caller puts its own into raw mode.
    pub terminal: Option<Window>,
}

/// Runs coracle in the host of `arch` with the streams of this process; answers with its exit code.
///
/// The program is this executable, or for another architecture the one that `$CORACLE_<ARCH>` names or that lies
/// beside this one. `progress` hears what takes long, `started` gets the means to pass signals on. If the host is lost
/// before anything came out of it, it is started again, once.
pub fn run_self(
    arch: HostArch,
    options: &Options,
    proxy: &Proxy,
    progress: &dyn Fn(&str),
    started: &mut dyn FnMut(Signals),
) -> Result<u8, HostError> {
    let program = own_program(arch)?;
    let mut files = vec![program.clone()];
    for path in &proxy.files_in {
        files.extend(files_below(path).map_err(|source| HostError::File {
            wish: "read",
            path: path.clone(),
            source,
        })?);
    }
    let mut env: Vec<(String, String)> = env::vars()
        .filter(|(key, _)| key == "RUST_LOG" || key.starts_with("CORACLE_"))
        .collect();
    env.extend(proxy.env.iter().cloned());
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(proxy.args.iter().cloned());
    let exec = Exec {
        argv,
        env,
        cwd: env::current_dir()
            .ok()
            .and_then(|dir| dir.into_os_string().into_string().ok()),
        terminal: proxy.terminal,
    };
    with_host(arch, options, progress, &mut |host| {
        host.copy_in_once(&files)?;
        let session = host.exec(&exec)?;
        started(session.signals());
        let code = session.run(Stdin::Inherit, &mut io::stdout(), &mut io::stderr())?;
        for path in &proxy.files_out {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            match host.copy_out(&path.to_string_lossy(), &path) {
                Ok(()) | Err(HostError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(code)
    })
}

/// Connects to the host or starts it, and does the work there. If the host is lost before anything came out of it, it
/// is started again and the work is done again, once; its [`Host::warning`] says so then.
pub fn with_host<T>(
    arch: HostArch,
    options: &Options,
    progress: &dyn Fn(&str),
    work: &mut dyn FnMut(&Host) -> Result<T, HostError>,
) -> Result<T, HostError> {
    let host = Host::connect_or_start(arch, options, progress)?;
    match work(&host) {
        Err(error @ HostError::Lost { again: true, .. }) => {
            let again = Host::connect_or_start(arch, options, progress)?;
            work(&again.with_warning(format!("{error}; it was started again")))
        }
        outcome => outcome,
    }
}

fn own_program(arch: HostArch) -> Result<PathBuf, HostError> {
    let exe = env::current_exe().unwrap_or_default();
    if arch.is_native() && exe.file_name() == Some("coracle".as_ref()) && exe.is_file() {
        return Ok(exe);
    }
    let program = find_sibling("coracle", "CORACLE", arch)?;
    std::path::absolute(&program).map_err(|source| HostError::File {
        wish: "use",
        path: program,
        source,
    })
}

/// All files below `path`, or itself.
pub(super) fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut todo = vec![path.to_path_buf()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
