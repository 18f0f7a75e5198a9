//! One command in a host of its own with a deterministic clock. Owns that QEMU; on the caller's thread.
//!
//! For exactly repeatable figures nothing may reach the host while it runs: files and command are part of its initial
//! file system, its output comes out of a serial port into a file, which this side follows.
use super::{
    Exec, HostArch, HostError, Options, explain,
    keeper::write_initrd,
    machine::{Machine, Qemu},
    place,
    root::{self, KernelTree},
};
use crate::bundle::cpio::Archive;
use coracle_protocol::{
    agent::{Output, Piece, Setup},
    frame::{self, FrameError},
    tree::{Receiver, send},
};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

/// A command, and what it needs and leaves.
#[derive(Debug, Clone)]
pub struct Once {
    /// The command.
    pub exec: Exec,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// Files and folders that it needs: here, and at which absolute path there.
    pub files_in: Vec<(PathBuf, String)>,
    /// Files and folders that it leaves: at which absolute path there, and where they go here.
    pub files_out: Vec<(String, PathBuf)>,
    /// Wall time that all of it may take, start included.
    pub limit: Duration,
}

/// Where the command's standard input lies in the host.
const STDIN_FILE: &str = "/coracle/stdin";

impl Once {
    /// Starts a host for the command, runs it, and ends the host. Answers with the command's exit code.
    ///
    /// The calling thread must live until the end: the kernel kills QEMU when it ends.
    pub fn run(
        &self,
        arch: HostArch,
        options: &Options,
        progress: &dyn Fn(&str),
        (stdout, stderr): (&mut dyn Write, &mut dyn Write),
    ) -> Result<u8, HostError> {
        let cache = place::cache()?;
        let qemu = Qemu::find(arch, &cache)?;
        if let Some(warning) = &qemu.warning {
            progress(warning);
        }
        let kernel = KernelTree::find(arch, &cache, progress)?;
        let base = root::base(arch, &kernel, &cache, progress)?;
        let scratch = place::Scratch::new()?;
        let (initrd, output) = (scratch.join("initrd"), scratch.join("output"));
        write_initrd(&initrd, &[&base, &self.payload()?])?;
        let console = scratch.join("console");
        let machine = Machine {
            kernel: &kernel.image,
            initrd: &initrd,
            console: &console,
            memory_mib: options.memory_mib,
            deterministic: Some(&output),
        };
        progress(&format!("starting an emulated {arch} host with a deterministic clock"));
        let mut tail = Tail::new(arch, Machinery(qemu.start(&machine)?), output, self.limit);
        self.follow(&mut tail, stdout, stderr).map_err(|error| match error {
            HostError::Lost { arch, reason, again } => HostError::Lost {
                arch,
                reason: format!("{reason}; its console ends with{}", place::tail(&console)),
                again,
            },
            other => other,
        })
    }

    /// Files, standard input and command as an archive.
    fn payload(&self) -> Result<Vec<u8>, HostError> {
        let mut archive = root::setup(&Setup::Once {
            exec: self.exec.clone(),
            stdin: Some(STDIN_FILE.to_string()),
            files_out: self.files_out.iter().map(|(there, _)| there.clone()).collect(),
        })?;
        archive.file(STDIN_FILE, 0o600, self.stdin.clone())?;
        for (here, there) in &self.files_in {
            add_tree(&mut archive, here, there)?;
        }
        Ok(archive.to_bytes())
    }

    fn follow(&self, tail: &mut Tail, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<u8, HostError> {
        let closed = |source| HostError::File {
            wish: "write to",
            path: "standard output or error".into(),
            source,
        };
        loop {
            match tail.next()? {
                Output::Stdout(bytes) => stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(closed)?,
                Output::Stderr(bytes) => stderr.write_all(&bytes).and_then(|()| stderr.flush()).map_err(closed)?,
                Output::Started | Output::StdinTaken(_) => {}
                Output::Exited(code) => return Ok(code),
                Output::Failed { code, reason } => return Err(HostError::Command { code, reason }),
                Output::File { path } => self.take_file(&path, tail)?,
            }
        }
    }

    fn take_file(&self, path: &str, tail: &mut Tail) -> Result<(), HostError> {
        let asked = self.files_out.iter().find(|(there, _)| there == path);
        let (there, here) = asked.ok_or_else(|| HostError::Refused(format!("the host sent {path} unasked")))?;
        let name = Path::new(there).file_name().unwrap_or_default().to_string_lossy();
        let here = here
            .to_str()
            .ok_or_else(|| coracle_protocol::tree::TreeError::Kind(here.clone()))?;
        let mut receiver = Receiver::new(here, &name)?;
        while receiver.take(tail.next::<Piece>()?)? {}
        Ok(())
    }
}

fn add_tree(archive: &mut Archive, here: &Path, there: &str) -> Result<(), HostError> {
    // (path, mode, content) of the file whose pieces are coming.
    let mut open: Option<(String, u32, Vec<u8>)> = None;
    let place = |path: &str| {
        if path.is_empty() {
            there.to_string()
        } else {
            format!("{there}/{path}")
        }
    };
    send(here, &mut |piece| {
        if let Piece::Data(bytes) = &piece {
            if let Some((_, _, content)) = &mut open {
                content.extend_from_slice(bytes);
            }
            return Ok(());
        }
        if let Some((path, mode, content)) = open.take() {
            archive.file(&path, mode, content)?;
        }
        match piece {
            Piece::Folder { path, mode } => archive.directory(&place(&path), mode),
            Piece::Link { path, target } => archive.symlink(&place(&path), &target),
            Piece::File { path, mode, .. } => {
                open = Some((place(&path), mode, Vec::new()));
                Ok(())
            }
            Piece::Data(_) | Piece::End | Piece::Failed { .. } => Ok(()),
        }
    })?;
    if let Some((path, mode, content)) = open {
        archive.file(&path, mode, content)?;
    }
    Ok(())
}

/// QEMU, killed when the job is over: it has nothing left to say then.
struct Machinery(Child);

impl Drop for Machinery {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The output file of a machine, followed while it grows.
struct Tail {
    arch: HostArch,
    machine: Machinery,
    path: PathBuf,
    file: Option<File>,
    end: Instant,
    limit: Duration,
}

impl Tail {
    fn new(arch: HostArch, machine: Machinery, path: PathBuf, limit: Duration) -> Self {
        Self {
            arch,
            machine,
            path,
            file: None,
            end: Instant::now() + limit,
            limit,
        }
    }

    fn next<M: serde::de::DeserializeOwned>(&mut self) -> Result<M, HostError> {
        let arch = self.arch;
        let lost = |reason: String| HostError::Lost {
            arch,
            reason,
            again: false,
        };
        match frame::read(self) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(lost("it ended without an answer".to_string())),
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(lost(format!("it was not done after {} seconds", self.limit.as_secs())))
            }
            Err(error) => Err(lost(explain(&error))),
        }
    }
}

impl Read for Tail {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // Looked at before the file, so that the last bytes are not missed.
            let over = self.machine.0.try_wait()?.is_some();
            if self.file.is_none() {
                self.file = File::open(&self.path).ok();
            }
            let count = self.file.as_mut().map_or(Ok(0), |file| file.read(buf))?;
            if count > 0 || over {
                return Ok(count);
            }
            if Instant::now() > self.end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
