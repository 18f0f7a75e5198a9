//! The life of a container by `coracle-oci`, beside crun and runc where they are installed: create, start and delete of
//! `/bin/true`, in turns. Wall time of whole processes, so it needs an idle machine; the ratio in one run is what counts.
#![allow(clippy::print_stdout, reason = "a report")]
use serde_json::json;
use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// crun refuses machines that have both versions of cgroups, so these are measured without, for all but runc.
const WITHOUT_CGROUP2: &str =
    "while read -r _ at kind _; do test $kind != cgroup2 || umount $at; done < /proc/mounts; exec \"$@\"";
/// Marks the process that has none.
const MARK: &str = "CORACLE_BENCH_WITHOUT_CGROUP2";

/// What is timed.
const STEPS: [&str; 4] = ["create", "start", "delete", "all"];

struct Runtime {
    name: String,
    program: PathBuf,
    flags: Vec<&'static str>,
    /// Of each step, in milliseconds.
    times: [Vec<f64>; 4],
}

fn main() -> Outcome<()> {
    let runs = runs()?;
    let mounts = fs::read_to_string("/proc/mounts")?;
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    if has("cgroup") && has("cgroup2") && env::var_os(MARK).is_none() {
        let mut again = Command::new("unshare");
        again.args(["--mount", "sh", "-c", WITHOUT_CGROUP2, "sh"]);
        return Err(again
            .arg(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(MARK, "1")
            .exec()
            .into());
    }
    let without_cgroups = !has("cgroup2");
    let folder = bundle()?;
    let mut runtimes = runtimes(without_cgroups);
    for round in 0..=runs {
        for turn in 0..runtimes.len() {
            let at = (round + turn) % runtimes.len();
            let Some(runtime) = runtimes.get_mut(at) else { continue };
            let times = once(runtime, &folder)?;
            // The first one finds cold caches.
            if round > 0 {
                runtime.times.iter_mut().zip(times).for_each(|(all, one)| all.push(one));
            }
        }
    }
    fs::remove_dir_all(&folder)?;
    report(&mut runtimes, runs, without_cgroups)
}

fn runs() -> Outcome<usize> {
    let arguments: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    match arguments.as_slice() {
        [] => Ok(100),
        [flag, number] if flag == "--runs" => Ok(number.parse()?),
        other => Err(format!("{other:?} is not known: --runs N").into()),
    }
}

/// `coracle-oci`, of `$CORACLE_OCI` or as built for benches, and what else there is.
fn runtimes(without_cgroups: bool) -> Vec<Runtime> {
    let own = env::var_os("CORACLE_OCI").map_or_else(|| env!("CARGO_BIN_EXE_coracle-oci").into(), PathBuf::from);
    let all = [("coracle-oci", own), ("crun", "crun".into()), ("runc", "runc".into())];
    let there = |program: &Path| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).status().is_ok()
    };
    all.into_iter()
        .filter(|(_, program)| there(program))
        .map(|(name, program)| Runtime {
            flags: if without_cgroups && name != "runc" {
                vec!["--cgroup-manager=disabled"]
            } else {
                Vec::new()
            },
            name: name.to_string(),
            program,
            times: Default::default(),
        })
        .collect()
}

/// A folder with a root file system of busybox and a configuration that every runtime takes.
fn bundle() -> Outcome<PathBuf> {
    let folder = env::temp_dir().join(format!("coracle-bench-oci-{}", std::process::id()));
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let busybox = busybox.ok_or("there is no busybox: install Debian's busybox-static")?;
    fs::copy(busybox, root.join("bin/true"))?;
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
            "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] },
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    Ok(folder)
}

/// One container, from nothing to nothing. Its own run time is not counted.
fn once(runtime: &Runtime, bundle: &Path) -> Outcome<[f64; 4]> {
    let (state, pid) = (bundle.join(format!("state-{}", runtime.name)), bundle.join("pid"));
    let verb = |words: &[&str]| -> Outcome<f64> {
        let mut command = Command::new(&runtime.program);
        command.arg("--root").arg(&state).args(&runtime.flags).args(words);
        // Files, not pipes: the container keeps them open.
        command.current_dir(bundle).stdin(Stdio::null()).stdout(Stdio::null());
        let (status, took) = timed(|| command.status())?;
        if status.success() {
            return Ok(took);
        }
        Err(format!("{} {} failed: {status}", runtime.name, words.join(" ")).into())
    };
    let pid_file = pid
        .to_str()
        .ok_or("the folder for temporary files has a name that is no text")?;
    let create = verb(&["create", "--pid-file", pid_file, "bench"])?;
    let process: PathBuf = Path::new("/proc").join(fs::read_to_string(&pid)?.trim());
    let start = verb(&["start", "bench"])?;
    let until = Instant::now() + Duration::from_secs(10);
    // A process that nobody has reaped is over as well.
    while fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        if Instant::now() > until {
            return Err(format!("{}: /bin/true does not end", runtime.name).into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let delete = verb(&["delete", "bench"])?;
    Ok([create, start, delete, create + start + delete])
}

fn timed<T, E: Into<Box<dyn Error>>>(work: impl FnOnce() -> Result<T, E>) -> Outcome<(T, f64)> {
    let start = Instant::now();
    let done = work().map_err(Into::into)?;
    Ok((done, start.elapsed().as_secs_f64() * 1e3))
}

fn report(runtimes: &mut [Runtime], runs: usize, without_cgroups: bool) -> Outcome<()> {
    println!(
        "create, start, delete of /bin/true, {runs} times each in turns; milliseconds, median (least){}",
        if without_cgroups { "; no cgroups but runc's" } else { "" }
    );
    println!("{:12} {}", "", STEPS.map(|step| format!("{step:>16}")).concat());
    let (mut all, mut medians) = (BTreeMap::new(), Vec::new());
    for runtime in runtimes {
        let mut figures = BTreeMap::new();
        let cells = STEPS.into_iter().zip(&mut runtime.times).map(|(step, times)| {
            times.sort_by(f64::total_cmp);
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let least = times.first().copied().unwrap_or_default();
            figures.insert(step, json!({ "median": median, "least": least }));
            if step == "all" {
                medians.push((runtime.name.clone(), median));
            }
            format!("{:>16}", format!("{median:.2} ({least:.2})"))
        });
        println!("{:12} {}", runtime.name, cells.collect::<String>());
        all.insert(runtime.name.clone(), figures);
    }
    if let Some((own, others)) = medians.split_first() {
        for (name, median) in others {
            println!("{}: {:.2} times the time of {name}", own.0, own.1 / median);
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("bench")
        .join("oci.json");
    fs::create_dir_all(file.parent().ok_or("no folder")?)?;
    fs::write(
        &file,
        serde_json::to_string_pretty(&json!({ "runs": runs, "without_cgroups": without_cgroups, "ms": all }))? + "\n",
    )?;
    Ok(())
}
