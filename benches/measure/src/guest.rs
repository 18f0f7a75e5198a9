//! The guest's first program. Says that user space is there and rests, or does the work that the command line names.
mod disk;
mod net;
mod steps;
mod vsock;

use crate::Outcome;
use coracle_measure::{
    MARKER,
    io::{DONE, FAILED, VARIABLE},
};
use rustix::{
    mount::{MountFlags, mount},
    stdio::{dup2_stdin, dup2_stdout},
    system::finit_module,
};
use std::{
    env,
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
    time::Duration,
};

/// Modules that every work needs: the buses.
const BUSES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
];

pub(crate) fn run() -> ! {
    match env::var(VARIABLE) {
        Err(_) => println!("{MARKER}"),
        Ok(work) => {
            if let Err(error) = prepare().and_then(|()| do_work(&work)) {
                println!("{FAILED}{error}");
            }
        }
    }
    loop {
        thread::park();
    }
}

fn prepare() -> Outcome<()> {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs"), ("dev", "devtmpfs")] {
        mount(name, format!("/{name}"), kind, MountFlags::empty(), None)?;
    }
    // What the kernel opened is the null device of the bundle's files. There is no console yet if its driver is a module.
    if let Ok(console) = File::options().read(true).write(true).open("/dev/console") {
        dup2_stdin(&console)?;
        dup2_stdout(&console)?;
    }
    Ok(())
}

fn do_work(work: &str) -> Outcome<()> {
    match work {
        "disk" => {
            load(&["virtio_blk"])?;
            disk::work()?;
        }
        "net" => {
            load(&["failover", "net_failover", "virtio_net"])?;
            net::work()?;
        }
        "vsock" => {
            load(&[
                "vsock",
                "vmw_vsock_virtio_transport_common",
                "vmw_vsock_virtio_transport",
            ])?;
            vsock::work()?;
        }
        "console" => {
            load(&["virtio_console"])?;
            wait_for("/dev/hvc0")?;
            return Ok(writeln!(File::options().write(true).open("/dev/hvc0")?, "{DONE}")?);
        }
        other => return Err(format!("no work is called {other}").into()),
    }
    println!("{DONE}");
    Ok(())
}

/// Loads the buses and these, in the order in which the kernel bundle numbers its modules.
fn load(names: &[&str]) -> Outcome<()> {
    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir("/modules")? {
        files.push(entry?.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    for file in files {
        let name = file.strip_suffix(".ko").and_then(|name| Some(name.split_once('-')?.1));
        if name.is_some_and(|name| BUSES.contains(&name) || names.contains(&name)) {
            let module = File::open(format!("/modules/{file}"))?;
            finit_module(&module, c"", 0).map_err(|error| format!("{file}: {error}"))?;
        }
    }
    Ok(())
}

/// Waits for a device to appear.
fn wait_for(path: &str) -> Outcome<()> {
    for _ in 0..100 {
        if Path::new(path).exists() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(format!("there is no {path}").into())
}
