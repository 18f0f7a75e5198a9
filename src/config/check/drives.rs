//! Rules of drives. Pure, like all of `check`.
use super::super::raw::{CacheType, Drive, IoEngine};
use super::super::spec::{BlockSpec, DeviceSpec, LimitsSpec};
use super::super::{
    error::ConfigError,
    shown::{join, quoted},
};
use super::{
    devices::{Names, id, rate_limiter, socket_path},
    path,
};
use std::path::Path;

/// The most queues of a drive.
const MAX_QUEUES: u64 = 64;
/// The least and the most KiB of a stripe.
const STRIPE_KIB: std::ops::RangeInclusive<u64> = 4..=1 << 20;

/// Checks all drives and gives those that are disks of ours, the root device first: the guest shall find it as `vda`.
pub(super) fn drives(drives: &[Drive]) -> Result<Vec<DeviceSpec>, ConfigError> {
    let mut ids = Names::default();
    let (mut root, mut others) = (Vec::new(), Vec::new());
    for (index, drive) in drives.iter().enumerate() {
        let at = format!("drives[{index}]");
        id(&join(&at, "drive_id"), &drive.drive_id)?;
        ids.take(&at, "drive_id", &drive.drive_id, &drive.drive_id)?;
        let spec = backend(&at, drive)?;
        partuuid(&at, drive)?;
        let limits = rate_limiter(&join(&at, "rate_limiter"), drive.rate_limiter.as_ref())?;
        let list = if drive.is_root_device { &mut root } else { &mut others };
        list.extend(spec.map(|spec| DeviceSpec::Block(BlockSpec { limits, ..spec })));
    }
    root.append(&mut others);
    Ok(root)
}

/// What the kernel is told of the root device, if a drive is that.
pub(super) fn root(drives: &[Drive]) -> Option<String> {
    let drive = drives.iter().find(|drive| drive.is_root_device)?;
    let mode = if drive.is_read_only == Some(true) { "ro" } else { "rw" };
    Some(match &drive.partuuid {
        Some(uuid) => format!("root=PARTUUID={uuid} {mode}"),
        None => format!("root=/dev/vda {mode}"),
    })
}

fn partuuid(at: &str, drive: &Drive) -> Result<(), ConfigError> {
    let Some(uuid) = &drive.partuuid else { return Ok(()) };
    let at = join(at, "partuuid");
    if !drive.is_root_device {
        let rule = "it finds the root file system, and this drive has is_root_device false";
        let remedy = "Remove partuuid, or set is_root_device to true";
        return Err(ConfigError::rule(at, quoted(uuid), rule, remedy));
    }
    if uuid.is_empty() || !uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        let rule = "a partition id has hexadecimal digits and hyphens only";
        let remedy = "Write it as `lsblk -o PARTUUID` shows it, for example \"0eaa91a0-01\"";
        return Err(ConfigError::rule(at, quoted(uuid), rule, remedy));
    }
    Ok(())
}

/// A drive is either files of ours or a vhost-user server's, which then decides on everything else.
fn backend(at: &str, drive: &Drive) -> Result<Option<BlockSpec>, ConfigError> {
    let Some(socket) = &drive.socket else {
        let Some(file) = &drive.path_on_host else {
            return Err(ConfigError::MissingKey {
                path: format!("{at}.path_on_host (or socket)"),
                example: "\"path_on_host\": \"rootfs.ext4\"".to_owned(),
            });
        };
        return disk(at, drive, file).map(Some);
    };
    socket_path(&join(at, "socket"), socket)?;
    let shown = |file: &Path| quoted(&file.to_string_lossy());
    let taken = [
        ("path_on_host", drive.path_on_host.as_deref().map(shown)),
        ("is_read_only", drive.is_read_only.map(|value| value.to_string())),
        ("io_engine", drive.io_engine.map(|engine| format!("\"{engine:?}\""))),
        ("rate_limiter", drive.rate_limiter.as_ref().map(|_| "set".to_owned())),
        ("discard", drive.discard.map(|value| value.to_string())),
        ("direct_io", drive.direct_io.map(|value| value.to_string())),
        ("num_queues", drive.num_queues.map(|value| value.to_string())),
        ("overlay", drive.overlay.as_deref().map(shown)),
        (
            "further_paths",
            drive.further_paths.first().map(|_| "not empty".to_owned()),
        ),
        ("stripe_kib", drive.stripe_kib.map(|value| value.to_string())),
    ];
    match taken.into_iter().find_map(|(key, value)| Some((key, value?))) {
        None => Ok(None),
        Some((key, value)) => Err(ConfigError::rule(
            join(at, key),
            value,
            "socket is set as well, and the server behind it decides this",
            format!("Remove {key}, or remove socket"),
        )),
    }
}

fn disk(at: &str, drive: &Drive, file: &Path) -> Result<BlockSpec, ConfigError> {
    let mut paths = vec![path(&join(at, "path_on_host"), file)?];
    for (index, file) in drive.further_paths.iter().enumerate() {
        paths.push(path(&format!("{at}.further_paths[{index}]"), file)?);
    }
    let overlay = drive.overlay.as_deref().map(|file| path(&join(at, "overlay"), file));
    let queues = drive.num_queues.unwrap_or(1);
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(ConfigError::rule(
            join(at, "num_queues"),
            queues.to_string(),
            format!("a drive has 1 to {MAX_QUEUES} queues"),
            "Set it to no more than the guest's vCPUs, or remove the key for 1",
        ));
    }
    let spec = BlockSpec {
        id: drive.drive_id.clone(),
        paths,
        stripe: stripe(at, drive)?,
        overlay: overlay.transpose()?,
        read_only: drive.is_read_only == Some(true),
        direct: drive.direct_io == Some(true),
        writeback: drive.cache_type == Some(CacheType::Writeback),
        uring: drive.io_engine == Some(IoEngine::Async),
        queues: u16::try_from(queues).unwrap_or(1),
        discard: drive.discard == Some(true),
        limits: LimitsSpec::default(),
    };
    together(at, &spec)?;
    Ok(spec)
}

fn stripe(at: &str, drive: &Drive) -> Result<Option<u64>, ConfigError> {
    let Some(kib) = drive.stripe_kib else { return Ok(None) };
    let (rule, remedy) = if drive.further_paths.is_empty() {
        (
            "there is one file, and stripes go over several".to_owned(),
            "Name more files by further_paths, or remove stripe_kib",
        )
    } else if !STRIPE_KIB.contains(&kib) || !kib.is_power_of_two() {
        (
            format!(
                "a stripe has a power of two of {} to {} KiB",
                STRIPE_KIB.start(),
                STRIPE_KIB.end()
            ),
            "Set it to 64",
        )
    } else {
        return Ok(Some(kib << 10));
    };
    Err(ConfigError::rule(join(at, "stripe_kib"), kib.to_string(), rule, remedy))
}

/// What does not go together.
fn together(at: &str, spec: &BlockSpec) -> Result<(), ConfigError> {
    let (key, value, rule, remedy) = if spec.read_only && spec.overlay.is_some() {
        let remedy = "Remove overlay, or is_read_only: with an overlay path_on_host is not written to anyway";
        (
            "overlay",
            "set",
            "is_read_only is true, so there is nothing to keep",
            remedy,
        )
    } else if spec.read_only && spec.discard {
        (
            "discard",
            "true",
            "is_read_only is true, so nothing can be given back",
            "Remove one of the two",
        )
    } else if spec.uring && (spec.overlay.is_some() || spec.paths.len() > 1) {
        let rule = "io_uring serves a drive of one file without an overlay";
        ("io_engine", "\"Async\"", rule, "Set it to \"Sync\"")
    } else {
        return Ok(());
    };
    Err(ConfigError::rule(join(at, key), value, rule, remedy))
}
