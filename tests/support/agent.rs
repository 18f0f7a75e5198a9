//! A guest whose PID 1 is the agent.
#![allow(dead_code, reason = "each test program uses a part of it")]
use super::{run, tiny::Folder};
use coracle::{
    agent::{Agent, ExecSpec, Key, Listening},
    builder::build,
    config::{
        self,
        spec::{SerialInput, SerialOutput, SerialSpec},
    },
    vm::Vm,
};
use coracle_arch::{Arch, Host};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, time::Duration};

/// How long the slowest step may take.
pub const LIMIT: Duration = Duration::from_secs(120);

pub struct Machine {
    pub agent: Agent,
    pub listening: Listening,
    pub vm: Vm,
    pub folder: Folder,
}

impl Machine {
    pub fn start() -> Self {
        // Many streams are open at once, on this side too.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let folder = Folder::new("agent");
        let key = Key::random();
        let config = format!(
            r#"{{"boot-source": {{"kernel_bundle": "{}", "boot_args": "{} {}"}},
                "machine-config": {{"vcpu_count": 1, "mem_size_mib": 512}},
                "vsock": {{"guest_cid": 3, "uds_path": "{}"}}}}"#,
            run::bundle().display(),
            Host::DEFAULT_CMDLINE,
            key.parameters(),
            folder.join("v").display()
        );
        let mut spec = config::parse(&config).unwrap();
        spec.serial = SerialSpec {
            input: SerialInput::None,
            output: SerialOutput::File(folder.join("console")),
        };
        let listening = Listening::new(folder.join("v"), key).unwrap();
        let vm = build(spec).unwrap();
        vm.start().unwrap();
        let agent = listening.accept(LIMIT).unwrap_or_else(|error| {
            panic!(
                "{error}; the guest's console:\n{}",
                String::from_utf8_lossy(&fs::read(folder.join("console")).unwrap())
            )
        });
        Self {
            agent,
            listening,
            vm,
            folder,
        }
    }
}

/// A script to run.
pub fn sh(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

/// What a script wrote, which must have ended well.
#[track_caller]
pub fn out(agent: &Agent, script: &str) -> String {
    let output = agent.exec(&sh(script)).unwrap().output().unwrap();
    assert_eq!(
        (output.exit.code, String::from_utf8_lossy(&output.stderr).as_ref()),
        (0, ""),
        "{script}"
    );
    String::from_utf8(output.stdout).unwrap()
}
