//! What limits come to in files of a cgroup (cgroup-v2.rst § Controllers): pure, no file is touched.
use crate::container::{
    Error, Result,
    spec::{BlockIo, Cpu, Memory, Resources},
};

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// What asked for it: "linux.resources.pids.limit".
    pub key: String,
    /// Files and what is written to them; the first one that is there gets it.
    pub files: Vec<(String, String)>,
    /// What to do if none of them is.
    pub absent: Absent,
}

/// What a limit is without its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// An error.
    Refused,
    /// Kept already, for what it limits does not exist.
    Fine,
}

/// The settings for a set of limits, in the order in which they are written; `unified` comes last. Keys of cgroup v1 are
/// refused. Devices are [`super::devices`]'.
pub fn plan(resources: &Resources) -> Result<Vec<Setting>> {
    let mut plan = Plan::default();
    if let Some(network) = &resources.network
        && !network.is_null()
        && network.as_object().is_none_or(|it| !it.is_empty())
    {
        return Err(legacy("network"));
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        // None at all would keep out the first process too.
        let value = if limit < 0 {
            "max".to_owned()
        } else {
            limit.max(1).to_string()
        };
        plan.add("pids.limit", "pids.max", value);
    }
    plan.memory(resources.memory.as_ref())?;
    plan.cpu(resources.cpu.as_ref())?;
    plan.disks(resources.block_io.as_ref())?;
    plan.huge_pages(resources)?;
    for (device, limit) in &resources.rdma {
        let limits = [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)];
        let limits = limits
            .into_iter()
            .filter_map(|(name, limit)| Some(format!(" {name}={}", limit?)));
        plan.add(
            &format!("rdma.{device}"),
            "rdma.max",
            format!("{device}{}", limits.collect::<String>()),
        );
    }
    plan.unified(resources)?;
    Ok(plan.0)
}

/// Nothing of cgroup v2 does this.
fn legacy(key: &str) -> Error {
    Error::spec(
        format!("linux.resources.{key}"),
        "is of cgroup v1, and v2 has nothing like it: leave it out",
    )
}

fn refused(key: &str, problem: impl Into<String>) -> Error {
    Error::spec(format!("linux.resources.{key}"), problem)
}

/// cpu.weight for shares: 2, 1024 and 262144 are 1, 100 and 10000, and in between a parabola on logarithmic scales leads
/// through them. This is what runc and crun do since 2025; before, 1024 became 39.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "shares have 18 bits here, and weights are from 1 to 10000"
)]
pub fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 1 << 18 {
        return 10_000;
    }
    let exponent = (shares as f64).log2();
    let weight = (exponent * exponent + 125.0 * exponent) / 612.0 - 7.0 / 34.0;
    // Rounding must not lift what lies on a whole number.
    (10_f64.powf(weight) - 1e-9).ceil() as u64
}

#[derive(Default)]
struct Plan(Vec<Setting>);

impl Plan {
    fn add(&mut self, key: &str, file: &str, value: impl Into<String>) {
        self.push(key, vec![(file.to_owned(), value.into())], Absent::Refused);
    }

    fn push(&mut self, key: &str, files: Vec<(String, String)>, absent: Absent) {
        self.0.push(Setting {
            key: format!("linux.resources.{key}"),
            files,
            absent,
        });
    }

    fn memory(&mut self, memory: Option<&Memory>) -> Result<()> {
        let Some(memory) = memory else { return Ok(()) };
        let set = |value: Option<i64>| value.filter(|it| *it != 0);
        for (key, is_set) in [
            ("memory.kernel", set(memory.kernel).is_some_and(|it| it > 0)),
            ("memory.kernelTCP", set(memory.kernel_tcp).is_some_and(|it| it > 0)),
            ("memory.swappiness", memory.swappiness.is_some()),
            ("memory.disableOOMKiller", memory.disable_oom_killer == Some(true)),
            ("memory.useHierarchy", memory.use_hierarchy == Some(false)),
        ] {
            if is_set {
                return Err(legacy(key));
            }
        }
        let (limit, reservation) = (set(memory.limit), set(memory.reservation));
        if let Some(swap) = swap_alone(limit, set(memory.swap))? {
            // Without swap there is none to use, and none to forbid.
            let absent = if swap <= 0 { Absent::Fine } else { Absent::Refused };
            self.push(
                "memory.swap",
                vec![("memory.swap.max".to_owned(), bytes("memory.swap", swap)?)],
                absent,
            );
        }
        if let Some(limit) = limit {
            self.add("memory.limit", "memory.max", bytes("memory.limit", limit)?);
        }
        if let Some(reservation) = reservation {
            let value = bytes("memory.reservation", reservation)?;
            self.add("memory.reservation", "memory.low", value);
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: Option<&Cpu>) -> Result<()> {
        let Some(cpu) = cpu else { return Ok(()) };
        if cpu.realtime_runtime.is_some_and(|it| it != 0) || cpu.realtime_period.is_some_and(|it| it != 0) {
            return Err(legacy("cpu.realtimeRuntime"));
        }
        if let Some(idle) = cpu.idle
            && !(0..=1).contains(&idle)
        {
            return Err(refused("cpu.idle", format!("{idle} is neither 0 nor 1")));
        }
        // Weights can be set of what is not idle only.
        if cpu.idle == Some(0) {
            self.add("cpu.idle", "cpu.idle", "0");
        }
        if let Some(shares) = cpu.shares.filter(|it| *it != 0) {
            self.add("cpu.shares", "cpu.weight", weight_of_shares(shares).to_string());
        }
        if cpu.idle == Some(1) {
            self.add("cpu.idle", "cpu.idle", "1");
        }
        let (quota, period) = (cpu.quota.filter(|it| *it != 0), cpu.period.filter(|it| *it != 0));
        if quota.is_some() || period.is_some() {
            if cpu.burst.is_some() {
                // The old one may be too much for the new quota.
                self.add("cpu.burst", "cpu.max.burst", "0");
            }
            let quota = quota.filter(|it| *it > 0).map_or("max".to_owned(), |it| it.to_string());
            // A period that is not named stays.
            let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
            self.add(
                if cpu.quota.is_some() { "cpu.quota" } else { "cpu.period" },
                "cpu.max",
                value,
            );
        }
        if let Some(burst) = cpu.burst {
            self.add("cpu.burst", "cpu.max.burst", burst.to_string());
        }
        for (key, file, list) in [
            ("cpu.cpus", "cpuset.cpus", &cpu.cpus),
            ("cpu.mems", "cpuset.mems", &cpu.mems),
        ] {
            if let Some(list) = list.as_ref().filter(|it| !it.is_empty()) {
                self.add(key, file, list.clone());
            }
        }
        Ok(())
    }

    fn disks(&mut self, disks: Option<&BlockIo>) -> Result<()> {
        let Some(disks) = disks else { return Ok(()) };
        if disks.leaf_weight.is_some_and(|it| it != 0) {
            return Err(legacy("blockIO.leafWeight"));
        }
        if let Some(weight) = disks.weight.filter(|it| *it != 0) {
            self.disk_weight("blockIO.weight", "", weight)?;
        }
        for disk in &disks.weight_device {
            if disk.leaf_weight.is_some_and(|it| it != 0) {
                return Err(legacy("blockIO.weightDevice.leafWeight"));
            }
            let prefix = format!("{}:{} ", disk.major, disk.minor);
            if let Some(weight) = disk.weight.filter(|it| *it != 0) {
                self.disk_weight("blockIO.weightDevice", &prefix, weight)?;
            }
        }
        for (key, word, rates) in [
            ("blockIO.throttleReadBpsDevice", "rbps", &disks.throttle_read_bps_device),
            (
                "blockIO.throttleWriteBpsDevice",
                "wbps",
                &disks.throttle_write_bps_device,
            ),
            (
                "blockIO.throttleReadIOPSDevice",
                "riops",
                &disks.throttle_read_iops_device,
            ),
            (
                "blockIO.throttleWriteIOPSDevice",
                "wiops",
                &disks.throttle_write_iops_device,
            ),
        ] {
            for disk in rates {
                let rate = if disk.rate == 0 {
                    "max".to_owned()
                } else {
                    disk.rate.to_string()
                };
                self.add(key, "io.max", format!("{}:{} {word}={rate}", disk.major, disk.minor));
            }
        }
        Ok(())
    }

    /// The scheduler BFQ has the same scale as the specification, other disks one from 1 to 10000.
    fn disk_weight(&mut self, key: &str, prefix: &str, weight: u16) -> Result<()> {
        if !(10..=1000).contains(&weight) {
            return Err(refused(key, format!("{weight} is not within 10 to 1000")));
        }
        let wide = 1 + (u64::from(weight) - 10) * 9999 / 990;
        let files = vec![
            ("io.bfq.weight".to_owned(), format!("{prefix}{weight}")),
            ("io.weight".to_owned(), format!("{prefix}{wide}")),
        ];
        self.push(key, files, Absent::Refused);
        Ok(())
    }

    fn huge_pages(&mut self, resources: &Resources) -> Result<()> {
        for (at, limit) in resources.hugepage_limits.iter().enumerate() {
            let key = format!("hugepageLimits[{at}]");
            if limit.page_size.is_empty() || !limit.page_size.bytes().all(|it| it.is_ascii_alphanumeric()) {
                return Err(refused(
                    &key,
                    format!("{:?} is no size of a page: give one as \"2MB\"", limit.page_size),
                ));
            }
            let file = |suffix: &str| format!("hugetlb.{}{suffix}", limit.page_size);
            let value = limit.limit.to_string();
            self.push(&key, vec![(file(".max"), value.clone())], Absent::Refused);
            // What is reserved counts apart, since Linux 5.7.
            self.push(&key, vec![(file(".rsvd.max"), value)], Absent::Fine);
        }
        Ok(())
    }

    fn unified(&mut self, resources: &Resources) -> Result<()> {
        for (file, text) in &resources.unified {
            let key = format!("unified[{file:?}]");
            let named = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
            if !file.contains('.') || file.starts_with('.') || !file.bytes().all(named) {
                return Err(refused(&key, "is no file of a cgroup: give one as \"memory.high\""));
            }
            if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
                return Err(refused(
                    &key,
                    "belongs to the runtime: of cgroup.* only cgroup.max.* can be set",
                ));
            }
            for line in text.lines() {
                self.add(&key, file, line);
            }
        }
        Ok(())
    }
}

/// Swap by itself, from what the specification gives as memory and swap together; -1 is no limit.
fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>> {
    let key = "memory.swap";
    Ok(match (limit, both) {
        // As with v1, lifting one lifts the other.
        (Some(-1), None) | (_, Some(-1)) => Some(-1),
        (_, None) => None,
        (Some(-1), Some(both)) => Some(both),
        (None, Some(_)) => {
            return Err(refused(
                key,
                "is memory and swap together, so memory.limit is needed to tell them apart",
            ));
        }
        (Some(limit), Some(both)) if both < limit => {
            let problem = format!("{both} is memory and swap together, so it cannot be below memory.limit, {limit}");
            return Err(refused(key, problem));
        }
        (Some(limit), Some(both)) => Some(both - limit),
    })
}

fn bytes(key: &str, value: i64) -> Result<String> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(refused(
            key,
            format!("{value} is no number of bytes: give -1 for no limit"),
        )),
    }
}
