//! A bundle of busybox with a state root of its own, and the commands of a runtime on it.
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

static BUNDLES: AtomicU32 = AtomicU32::new(0);

const APPLETS: [&str; 23] = [
    "sh", "true", "false", "cat", "echo", "sleep", "id", "mount", "ps", "hostname", "env", "kill", "tty", "stty", "wc",
    "ip", "ls", "pwd", "test", "head", "grep", "touch", "readlink",
];

const WITHOUT_CGROUP2: &str =
    "while read -r _ at kind _; do test $kind != cgroup2 || umount $at; done < /proc/mounts; exec \"$@\"";

/// A runtime, and what belongs to the containers of one test.
pub struct Bundle {
    pub path: PathBuf,
    pub id: String,
    runtime: String,
}

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bundle {
    /// None, with the reason printed, where containers cannot be made.
    pub fn new(change: impl FnOnce(&mut Value)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only user 0 can make these containers");
            return None;
        }
        let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
        else {
            eprintln!("skipped: there is no busybox (Debian's busybox-static)");
            return None;
        };
        let number = BUNDLES.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&id);
        let root = path.join("rootfs");
        for folder in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
        )
        .unwrap();
        let bundle = Self {
            path,
            id,
            runtime: env!("CARGO_BIN_EXE_coracle-oci").to_owned(),
        };
        assert_eq!(bundle.run_in(&["spec"]).code, 0);
        bundle.change(|config| {
            config["process"]["terminal"] = json!(false);
            config["root"]["readonly"] = json!(false);
            change(config);
        });
        Some(bundle)
    }

    /// One whose process is a script.
    pub fn script(script: &str) -> Option<Self> {
        Self::new(|config| config["process"]["args"] = json!(["sh", "-c", script]))
    }

    /// Another runtime on the same bundle, if it is installed.
    pub fn with(&self, runtime: &str) -> Option<Self> {
        let there = Command::new(runtime)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        if !there {
            eprintln!("skipped: there is no {runtime}");
        }
        there.then(|| Self {
            path: self.path.clone(),
            id: format!("{}-{runtime}", self.id),
            runtime: runtime.to_owned(),
        })
    }

    /// Changes the configuration.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    /// Where the runtime keeps its state.
    pub fn state_root(&self) -> PathBuf {
        self.path.join(format!(
            "state-{}",
            Path::new(&self.runtime).file_name().unwrap().display()
        ))
    }

    /// Names of what is left in the state root.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state_root()).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// The runtime with these arguments, in the bundle; killed if it takes too long.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "20"]);
        if self.runtime == "crun" {
            // It refuses machines that have both versions of cgroups; no comparison needs its cgroups.
            command.args(["unshare", "--mount", "sh", "-c", WITHOUT_CGROUP2, "sh"]);
        }
        command.args([&self.runtime, "--root"]).arg(self.state_root());
        if self.runtime == "crun" {
            command.arg("--cgroup-manager=disabled");
        }
        command.args(arguments).current_dir(&self.path).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run_in(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    /// A verb on the container.
    pub fn verb(&self, verb: &str, more: &[&str]) -> Ran {
        self.run_in(&[&[verb, &self.id], more].concat())
    }

    /// `run` in the foreground.
    pub fn run(&self) -> Ran {
        self.verb("run", &[])
    }

    /// `create`, with output to files, since the container keeps it open.
    pub fn create(&self, flags: &[&str]) -> Ran {
        let (out, err) = (self.path.join("out"), self.path.join("err"));
        let mut command = self.command(&[&["create"], flags, &[&self.id]].concat());
        command
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap());
        Ran {
            code: command.status().unwrap().code().unwrap_or(-1),
            out: String::new(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    /// What the created container has written.
    pub fn output(&self) -> String {
        fs::read_to_string(self.path.join("out")).unwrap()
    }

    /// A verb that has to work.
    pub fn must(&self, verb: &str, more: &[&str]) -> String {
        let ran = self.verb(verb, more);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{verb}");
        ran.out
    }

    /// The state as the runtime tells it.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.must("state", &[])).unwrap()
    }

    /// Waits for a status.
    pub fn wait_for(&self, status: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state()["status"] != status {
            assert!(
                Instant::now() < deadline,
                "the container is never {status}: {}",
                self.state()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.run_in(&["delete", "--force", &self.id]);
        if self.runtime.contains('/') {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
