//! Rules of devices: names, addresses, sizes and what must be there once. Pure, like all of `check`.
use super::super::raw::{
    Balloon, HugePages, MachineConfig, MemoryHotplug, Metrics, MmdsConfig, NetworkInterface, Pmem, RateLimiter,
    TokenBucket, VmConfig, Vsock,
};
use super::super::spec::{BalloonSpec, BucketSpec, DeviceSpec, LimitsSpec, RngSpec, VsockSpec};
use super::super::{
    error::ConfigError,
    shown::{join, quoted},
};
use super::path;
use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

/// The longest name of a device, in bytes.
const MAX_ID: usize = 64;
/// The longest path of a Unix socket on Linux, in bytes.
const MAX_SOCKET: usize = 107;
/// Sizes in MiB that a memory-hotplug device has unless told otherwise; also the smallest.
const SLOT_MIB: u64 = 128;
const BLOCK_MIB: u64 = 2;

/// Checks all device sections but drives and network cards, in the order of the schema.
pub(super) fn devices(config: &VmConfig) -> Result<Vec<DeviceSpec>, ConfigError> {
    let mut specs = Vec::new();
    pmem(&config.pmem)?;
    one_root(config)?;
    specs.extend(config.vsock.as_ref().map(vsock).transpose()?);
    if let Some(entropy) = &config.entropy {
        let limits = rate_limiter("entropy.rate_limiter", entropy.rate_limiter.as_ref())?;
        specs.push(DeviceSpec::Rng(RngSpec { limits }));
    }
    if let Some(device) = &config.balloon {
        specs.push(DeviceSpec::Balloon(balloon(device, &config.machine_config)?));
    }
    config.memory_hotplug.as_ref().map_or(Ok(()), memory_hotplug)?;
    if let Some(service) = &config.mmds_config {
        mmds(service, &config.network_interfaces)?;
    }
    config.metrics.as_ref().map_or(Ok(()), metrics)?;
    Ok(specs)
}

fn pmem(devices: &[Pmem]) -> Result<(), ConfigError> {
    let mut ids = Names::default();
    for (index, device) in devices.iter().enumerate() {
        let at = format!("pmem[{index}]");
        id(&join(&at, "id"), &device.id)?;
        ids.take(&at, "id", &device.id, &device.id)?;
        path(&join(&at, "path_on_host"), &device.path_on_host)?;
        rate_limiter(&join(&at, "rate_limiter"), device.rate_limiter.as_ref())?;
    }
    Ok(())
}

fn one_root(config: &VmConfig) -> Result<(), ConfigError> {
    let drives = config.drives.iter().enumerate();
    let drives = drives.filter(|(_, drive)| drive.is_root_device);
    let drives = drives.map(|(index, _)| format!("drives[{index}].is_root_device"));
    let pmem = config.pmem.iter().enumerate();
    let pmem = pmem.filter(|(_, device)| device.root_device);
    let mut roots = drives.chain(pmem.map(|(index, _)| format!("pmem[{index}].root_device")));
    match (roots.next(), roots.next()) {
        (Some(first), Some(second)) => Err(ConfigError::rule(
            second,
            "true",
            format!("{first} is true already, and a guest has one root file system"),
            "Leave true on one device and set the others to false",
        )),
        _ => Ok(()),
    }
}

fn vsock(vsock: &Vsock) -> Result<DeviceSpec, ConfigError> {
    let cid = u32::try_from(vsock.guest_cid).ok();
    let Some(guest_cid) = cid.filter(|cid| (3..u32::MAX).contains(cid)) else {
        return Err(ConfigError::rule(
            "vsock.guest_cid",
            vsock.guest_cid.to_string(),
            format!("a guest's address is 3 to {}; 0 to 2 are the host's", u32::MAX - 1),
            "Set it to 3",
        ));
    };
    socket_path("vsock.uds_path", &vsock.uds_path)?;
    Ok(DeviceSpec::Vsock(VsockSpec {
        guest_cid,
        uds_path: vsock.uds_path.clone(),
    }))
}

pub(super) fn socket_path(at: &str, socket: &std::path::Path) -> Result<(), ConfigError> {
    let bytes = path(at, socket)?.as_os_str().len();
    if bytes <= MAX_SOCKET {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(&socket.to_string_lossy()),
        format!("Linux allows {MAX_SOCKET} bytes for a socket's path, and this has {bytes}"),
        "Use a shorter path, for example one relative to the current directory",
    ))
}

fn balloon(balloon: &Balloon, machine: &MachineConfig) -> Result<BalloonSpec, ConfigError> {
    let mem_size_mib = machine.mem_size_mib;
    if balloon.amount_mib >= mem_size_mib {
        return Err(ConfigError::rule(
            "balloon.amount_mib",
            balloon.amount_mib.to_string(),
            format!("the guest has {mem_size_mib} MiB and cannot give back all of it"),
            "Set a smaller amount, or a larger machine-config.mem_size_mib",
        ));
    }
    if balloon.stats_polling_interval_s > u64::from(u16::MAX) {
        return Err(ConfigError::rule(
            "balloon.stats_polling_interval_s",
            balloon.stats_polling_interval_s.to_string(),
            format!("the interval is at most {} seconds", u16::MAX),
            "Set a smaller number, or 0 for no statistics",
        ));
    }
    Ok(BalloonSpec {
        bytes: balloon.amount_mib << 20,
        deflate_on_oom: balloon.deflate_on_oom,
        statistics: Duration::from_secs(balloon.stats_polling_interval_s),
        hinting: balloon.free_page_hinting,
        reporting: balloon.free_page_reporting,
        pool_pages: machine.huge_pages == Some(HugePages::Hugetlb2M),
    })
}

fn memory_hotplug(memory: &MemoryHotplug) -> Result<(), ConfigError> {
    let block = memory.block_size_mib.unwrap_or(BLOCK_MIB);
    let slot = memory.slot_size_mib.unwrap_or(SLOT_MIB);
    let total = memory.total_size_mib;
    let (key, value, rule) = if block < BLOCK_MIB || !block.is_power_of_two() {
        let rule = format!("a block is a power of two, at least {BLOCK_MIB} MiB");
        ("block_size_mib", block, rule)
    } else if slot < SLOT_MIB || !slot.is_multiple_of(block) {
        let rule = format!("a slot is a multiple of the block's {block} MiB, at least {SLOT_MIB} MiB");
        ("slot_size_mib", slot, rule)
    } else if total < slot || !total.is_multiple_of(slot) {
        let rule = format!("the total is a multiple of the slot's {slot} MiB, at least one slot");
        ("total_size_mib", total, rule)
    } else if total > super::MAX_MEM_MIB {
        let rule = format!("a VM has at most {} MiB (64 TiB)", super::MAX_MEM_MIB);
        ("total_size_mib", total, rule)
    } else {
        return Ok(());
    };
    let remedy = "Set sizes that fit each other, for example block 2, slot 128 and total 1024";
    Err(ConfigError::rule(
        join("memory-hotplug", key),
        value.to_string(),
        rule,
        remedy,
    ))
}

fn mmds(mmds: &MmdsConfig, interfaces: &[NetworkInterface]) -> Result<(), ConfigError> {
    if mmds.network_interfaces.is_empty() {
        return Err(ConfigError::rule(
            "mmds-config.network_interfaces",
            "[]",
            "the guest reaches the service over at least one network device",
            "Name the iface_id of one, or remove mmds-config",
        ));
    }
    let known = |name: &str| interfaces.iter().any(|interface| interface.iface_id == name);
    let mut stated = Names::default();
    for (index, name) in mmds.network_interfaces.iter().enumerate() {
        if !known(name) {
            return Err(ConfigError::rule(
                format!("mmds-config.network_interfaces[{index}]"),
                quoted(name),
                "no device in network-interfaces has that iface_id",
                "Add the device, or use the iface_id of another",
            ));
        }
        stated.take(&format!("mmds-config.network_interfaces[{index}]"), "", name, name)?;
    }
    let Some(text) = &mmds.ipv4_address else {
        return Ok(());
    };
    let address: Option<Ipv4Addr> = text.parse().ok();
    // RFC 3927, section 2.1: the first and the last 256 addresses are reserved.
    if address.is_some_and(|a| a.is_link_local() && !matches!(a.octets(), [_, _, 0 | 255, _])) {
        return Ok(());
    }
    Err(ConfigError::rule(
        "mmds-config.ipv4_address",
        quoted(text),
        "the service has a link-local address, 169.254.1.0 to 169.254.254.255",
        "Set such an address, or remove the key for 169.254.169.254",
    ))
}

fn metrics(metrics: &Metrics) -> Result<(), ConfigError> {
    path("metrics.metrics_path", &metrics.metrics_path)?;
    if metrics.properties.contains_key("") {
        return Err(ConfigError::rule(
            "metrics.properties",
            "an object with the key \"\"",
            "each property has a name",
            "Name it, or remove it",
        ));
    }
    Ok(())
}

/// Checks limits; without any, nothing is limited.
pub(super) fn rate_limiter(at: &str, limiter: Option<&RateLimiter>) -> Result<LimitsSpec, ConfigError> {
    let Some(limiter) = limiter else {
        return Ok(LimitsSpec::default());
    };
    for (key, bucket) in [("bandwidth", &limiter.bandwidth), ("ops", &limiter.ops)] {
        if let Some(bucket) = bucket {
            token_bucket(&join(at, key), bucket)?;
        }
    }
    let bucket = |bucket: &TokenBucket| BucketSpec {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst.unwrap_or(0),
        refill_time: Duration::from_millis(bucket.refill_time),
    };
    Ok(LimitsSpec {
        bandwidth: limiter.bandwidth.as_ref().map(bucket),
        ops: limiter.ops.as_ref().map(bucket),
    })
}

/// A bucket counts in nanoseconds, so its refill time must fit in 64 bits of them.
pub(super) fn token_bucket(at: &str, bucket: &TokenBucket) -> Result<(), ConfigError> {
    const LONGEST_MS: u64 = u64::MAX / 1_000_000;
    if bucket.refill_time <= LONGEST_MS {
        return Ok(());
    }
    Err(ConfigError::rule(
        join(at, "refill_time"),
        bucket.refill_time.to_string(),
        format!("the time is at most {LONGEST_MS} milliseconds"),
        "Set a smaller number, or 0 for no limit",
    ))
}

/// A name that is safe in messages, file names and URLs.
pub(super) fn id(at: &str, text: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=MAX_ID).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(text),
        format!("a name has 1 to {MAX_ID} ASCII letters, digits, dots, hyphens and underscores"),
        "Choose such a name",
    ))
}

/// Names that must be there once, and who has them.
#[derive(Default)]
pub(super) struct Names(HashMap<String, String>);

impl Names {
    /// Notes that `at` has `name` (shown as `text`) under `key`.
    pub(super) fn take(&mut self, at: &str, key: &str, name: &str, text: &str) -> Result<(), ConfigError> {
        match self.0.insert(name.to_owned(), at.to_owned()) {
            None => Ok(()),
            Some(first) => Err(ConfigError::rule(
                if key.is_empty() { at.to_owned() } else { join(at, key) },
                quoted(text),
                format!("{first} has the same, and each must have its own"),
                "Change or remove one of the two",
            )),
        }
    }
}
