//! What commands print: states, lists, processes, use of resources.
use crate::arguments::{Events, Format, List, Ps};
use coracle_guest::container::{
    Error, Result,
    cgroup::{Cgroup, oom::OomNews},
    lifecycle::{self, own_cgroup},
    state::{ProcessId, Record, Status, Store, user_name},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::Command,
    time::{Duration, Instant},
};

/// To standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::step("write to standard output"))
}

/// The state with what runc tells beside it.
fn describe(record: &Record, status: Status) -> serde_json::Value {
    let mut told = record.to_oci(status);
    if let Some(told) = told.as_object_mut() {
        told.insert("rootfs".into(), record.rootfs.display().to_string().into());
        told.insert("created".into(), record.created.clone().into());
        told.insert("owner".into(), user_name(record.owner).into());
    }
    told
}

/// The state of a container.
pub(crate) fn state(store: &Store, id: &str) -> Result<()> {
    let (record, status) = lifecycle::look(store, id)?;
    print(&format!("{:#}\n", describe(&record, status)))
}

/// All containers.
pub(crate) fn list(store: &Store, wish: &List) -> Result<()> {
    print(&table_of_containers(store, wish)?)
}

fn table_of_containers(store: &Store, wish: &List) -> Result<String> {
    let all = lifecycle::list(store)?;
    if wish.quiet {
        return Ok(all.iter().flat_map(|(record, _)| [record.id.as_str(), "\n"]).collect());
    }
    if wish.format == Format::Json {
        let all: Vec<_> = all.iter().map(|(record, status)| describe(record, *status)).collect();
        return Ok(format!("{}\n", serde_json::Value::from(all)));
    }
    let rows = all.iter().map(|(record, status)| {
        let told = record.to_oci(*status);
        [
            record.id.clone(),
            told.get("pid").map(ToString::to_string).unwrap_or_default(),
            status.name().to_owned(),
            record.bundle.display().to_string(),
            record.created.clone(),
            user_name(record.owner),
        ]
    });
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(ToOwned::to_owned);
    Ok(table(&[head].into_iter().chain(rows).collect::<Vec<_>>()))
}

/// Columns as wide as what is in them.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const GAP: usize = 4;
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .max()
                .unwrap_or_default()
                + GAP;
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The processes of a container, as ps(1) tells of them.
pub(crate) fn processes(store: &Store, wish: &Ps) -> Result<()> {
    let pids = lifecycle::processes(store, &wish.id)?;
    if wish.format == Format::Json {
        return print(&format!("{}\n", serde_json::Value::from(pids)));
    }
    let options: &[String] = if wish.options.is_empty() {
        &["-ef".to_owned()]
    } else {
        &wish.options
    };
    let output = Command::new("ps")
        .args(options)
        .output()
        .map_err(Error::step("run ps"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Refused(format!("ps {}: {said}", options.join(" "))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::Refused("ps: there is no column PID; choose other options".to_owned()))?;
    let is_inside = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let kept: Vec<_> = [head].into_iter().chain(lines.filter(is_inside)).collect();
    print(&format!("{}\n", kept.join("\n")))
}

/// What a container uses, again and again, and each time that it runs out of memory.
pub(crate) fn events(store: &Store, wish: &Events) -> Result<()> {
    let interval = interval(&wish.interval)?;
    let (record, status) = lifecycle::look(store, &wish.id)?;
    if status == Status::Stopped {
        return Err(Error::state(&wish.id, "is stopped; it uses nothing"));
    }
    let cgroup = own_cgroup(&record, "watched")?;
    if wish.stats {
        return report_stats(&wish.id, &cgroup);
    }
    let mut watch = cgroup.watch_oom()?;
    let mut next = Instant::now();
    loop {
        if next <= Instant::now() {
            report_stats(&wish.id, &cgroup)?;
            next += interval;
        }
        let left = next.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(|_| Error::Refused("--interval: is too long".to_owned()))?;
        let mut ready = [PollFd::new(&watch, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut ready, Some(&limit))).map_err(Error::step("wait for events"))?;
        match watch.take()? {
            OomNews::Gone => return Ok(()),
            OomNews::Oom(_) => report_event("oom", &wish.id, &serde_json::Value::Null)?,
            OomNews::Quiet => {}
        }
        if !record.process.is_some_and(ProcessId::is_alive) {
            return Ok(());
        }
    }
}

fn report_stats(id: &str, cgroup: &Cgroup) -> Result<()> {
    let stats = serde_json::to_value(cgroup.stats()).map_err(Error::step("write down what the container uses"))?;
    report_event("stats", id, &stats)
}

fn report_event(kind: &str, id: &str, data: &serde_json::Value) -> Result<()> {
    let mut event = serde_json::json!({ "type": kind, "id": id });
    if let Some(event) = event.as_object_mut().filter(|_| !data.is_null()) {
        event.insert("data".to_owned(), data.clone());
    }
    print(&format!("{event}\n"))
}

/// "5s", "100ms", "2m" or seconds.
fn interval(text: &str) -> Result<Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)];
    let milliseconds = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor).filter(|all| *all > 0)
    });
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| Error::Refused(format!("--interval: {text:?} is not a time like \"5s\" or \"100ms\"")))
}
