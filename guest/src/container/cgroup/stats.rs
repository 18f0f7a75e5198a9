//! What a cgroup uses, in the shape in which `events --stats` of other runtimes tells it. Times are in nanoseconds,
//! amounts in bytes; what the kernel does not say is left out.
use super::{Cgroup, read_words};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Disks.
    pub blkio: DiskStats,
    /// Huge pages by size, as "2MB".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hugetlb: BTreeMap<String, HugePageStats>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Used.
    pub usage: CpuUsage,
    /// Withheld by a quota.
    pub throttling: Throttling,
    /// Time in which tasks waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Processor time that was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// In all.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// What a quota does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled_time: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Contents of files.
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together, as with cgroup v1.
    pub swap: MemoryEntry,
    /// All of memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Time in which tasks waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryEntry {
    /// The highest number there is without one.
    pub limit: u64,
    /// Now.
    pub usage: u64,
    /// At most so far; 0 if the kernel does not say.
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// Tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// 0 without one.
    pub limit: u64,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskStats {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<DiskEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<DiskEntry>,
    /// Time in which tasks waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A count of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskEntry {
    /// Its number.
    pub major: u64,
    /// Its number.
    pub minor: u64,
    /// "Read" or "Write".
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugePageStats {
    /// Now.
    pub usage: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// How much tasks had to wait (psi.rst): some of them, all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Some.
    pub some: PressureShare,
    /// All.
    pub full: PressureShare,
}

/// Shares of the last 10, 60 and 300 seconds in percent, and microseconds in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the kernel's names")]
pub struct PressureShare {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

impl Cgroup {
    /// What it uses now. Controllers that it has not got count nothing.
    pub fn stats(&self) -> Stats {
        Stats {
            cpu: self.cpu_stats(),
            memory: self.memory_stats(),
            pids: self.pids_stats(),
            blkio: self.disk_stats(),
            hugetlb: self.huge_page_stats(),
        }
    }

    fn cpu_stats(&self) -> CpuStats {
        let stat = self.map("cpu.stat");
        let of = |key: &str| stat.get(key).copied().unwrap_or(0);
        let nanoseconds = |key: &str| of(key).saturating_mul(1000);
        CpuStats {
            usage: CpuUsage {
                total: nanoseconds("usage_usec"),
                kernel: nanoseconds("system_usec"),
                user: nanoseconds("user_usec"),
            },
            throttling: Throttling {
                periods: of("nr_periods"),
                throttled_periods: of("nr_throttled"),
                throttled_time: nanoseconds("throttled_usec"),
            },
            psi: self.pressure("cpu.pressure"),
        }
    }

    fn memory_stats(&self) -> MemoryStats {
        let raw = self.map("memory.stat");
        let hits = |file: &str| self.read_key(file, "max").unwrap_or(0);
        let usage = MemoryEntry {
            limit: self.amount("memory.max"),
            usage: self.amount("memory.current"),
            max: self.amount("memory.peak"),
            failcnt: hits("memory.events"),
        };
        let swap = MemoryEntry {
            limit: self.amount("memory.swap.max").saturating_add(usage.limit),
            usage: self.amount("memory.swap.current").saturating_add(usage.usage),
            max: 0,
            failcnt: hits("memory.swap.events"),
        };
        MemoryStats {
            cache: raw.get("file").copied().unwrap_or(0),
            usage,
            swap,
            raw,
            psi: self.pressure("memory.pressure"),
        }
    }

    fn pids_stats(&self) -> PidsStats {
        let current = self.read_first("pids.current").and_then(|it| it.parse().ok());
        PidsStats {
            current: current.unwrap_or_else(|| self.processes().map_or(0, |it| it.len() as u64)),
            limit: match self.amount("pids.max") {
                u64::MAX => 0,
                limit => limit,
            },
        }
    }

    fn disk_stats(&self) -> DiskStats {
        let text = fs::read_to_string(self.path().join("io.stat")).unwrap_or_default();
        let mut stats = parse_disks(&text);
        stats.psi = self.pressure("io.pressure");
        stats
    }

    fn huge_page_stats(&self) -> BTreeMap<String, HugePageStats> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?.to_owned();
            (!size.contains('.')).then_some(size)
        });
        let stats = sizes.map(|size| {
            let stats = HugePageStats {
                usage: self.amount(&format!("hugetlb.{size}.current")),
                failcnt: self.read_key(&format!("hugetlb.{size}.events"), "max").unwrap_or(0),
            };
            (size, stats)
        });
        stats.collect()
    }

    /// A file of one number: "max" is the highest there is, no file is 0.
    fn amount(&self, file: &str) -> u64 {
        match self.read_first(file).as_deref() {
            None => 0,
            Some("max") => u64::MAX,
            Some(text) => text.parse().unwrap_or(0),
        }
    }

    /// A file of names and numbers.
    fn map(&self, file: &str) -> BTreeMap<String, u64> {
        let words = read_words(&self.path().join(file));
        let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
            [key, value] => Some((key.clone(), value.parse().ok()?)),
            _ => None,
        });
        pairs.collect()
    }

    /// Nothing if the kernel does not measure it.
    fn pressure(&self, file: &str) -> Option<Pressure> {
        parse_pressure(&fs::read_to_string(self.path().join(file)).ok()?)
    }
}

/// Lines as "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
pub(super) fn parse_disks(text: &str) -> DiskStats {
    let mut stats = DiskStats::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = number.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for word in words {
            let Some((key, Ok(value))) = word.split_once('=').map(|(key, value)| (key, value.parse())) else {
                continue;
            };
            let (table, op) = match key {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                _ => continue,
            };
            table.push(DiskEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            });
        }
    }
    stats
}

/// Lines as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
pub(super) fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut any = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let share = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        any = true;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => share.avg10 = value.parse().ok()?,
                "avg60" => share.avg60 = value.parse().ok()?,
                "avg300" => share.avg300 = value.parse().ok()?,
                "total" => share.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    any.then_some(pressure)
}
