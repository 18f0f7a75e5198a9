//! The command line, with runc's verbs and flags.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A container runtime by the OCI runtime specification.
#[derive(Debug, Parser)]
#[command(name = "coracle-oci", version, about, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Folder for the state of containers (default: $XDG_RUNTIME_DIR/coracle-oci for users, /run/coracle-oci for root)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) root: Option<PathBuf>,
    /// File that errors and warnings are added to
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of that file
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Accepted for the sake of callers; there is nothing more to tell
    #[arg(long)]
    pub(crate) debug: bool,
    /// Cgroups by systemd: not supported
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Whether containers get cgroups, as crun has it
    #[arg(long, value_enum, default_value_t = Cgroups::Cgroupfs, value_name = "HOW")]
    pub(crate) cgroup_manager: Cgroups,
    /// Program for checkpoints: not supported
    #[arg(long, value_name = "FILE")]
    pub(crate) criu: Option<PathBuf>,
    /// Whether the caller has rights of user 0 only in its own user namespace: found out without it
    #[arg(long, value_name = "true|false|auto")]
    pub(crate) rootless: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Words.
    Text,
    /// An object a line.
    Json,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cgroups {
    /// The runtime, in the file system.
    Cgroupfs,
    /// Nobody: containers stay in the caller's.
    Disabled,
    /// systemd: not supported.
    Systemd,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container and have it wait for start
    Create(Create),
    /// Let the process of a created container run
    Start(Name),
    /// Make a container, run it and remove it
    Run(Run),
    /// Run a further process in a container
    Exec(Exec),
    /// Tell the state of a container
    State(Name),
    /// Send a signal to a container
    Kill(Kill),
    /// Remove a container
    Delete(Delete),
    /// List containers
    List(List),
    /// List the processes of a container
    Ps(Ps),
    /// Freeze the processes of a container
    Pause(Name),
    /// Let them go on
    Resume(Name),
    /// Change the limits of a container
    Update(Update),
    /// Tell what a container uses, and of its running out of memory
    Events(Events),
    /// Tell what this runtime can do
    Features,
    /// Write a config.json to start from
    Spec(Spec),
}

/// A container.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Name of the container
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the container
    pub(crate) id: String,
    /// Folder of the bundle (default: the working directory)
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) bundle: Option<PathBuf>,
    /// Socket that the terminal's master is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File for the number of the first process
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the container inherits
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) preserve_fds: u32,
    /// Change the root by chroot, for roots that cannot be pivoted
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for it
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Leave its orphans to somebody else
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Name of the container
    pub(crate) id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// File with the process as config.json has it
    #[arg(long, short, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Working directory in the container
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cwd: Option<PathBuf>,
    /// Variables of the environment, beside the container's
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Numbers of user and group
    #[arg(long, short, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Additional groups
    #[arg(long, short = 'g', value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Capabilities beside the container's
    #[arg(long, short, value_name = "CAPABILITY")]
    pub(crate) cap: Vec<String>,
    /// It gains no privileges by exec
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Profile of AppArmor: not supported
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Label of SELinux: not supported
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Do not wait for it
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Run it in a paused container too, where it waits
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Socket that the terminal's master is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File for the number of the process
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that it inherits
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) preserve_fds: u32,
    /// Cgroup below the container's
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Name of the container
    pub(crate) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// Send it to all processes of the container
    #[arg(long, short)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Name of the container
    pub(crate) id: String,
    /// End it if it runs, and accept that there is none
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Format
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Names alone
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Name of the container
    pub(crate) id: String,
    /// Format
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name of the container
    pub(crate) id: String,
    /// File with limits as linux.resources has them; "-" is standard input
    #[arg(long, short, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of disks, 10 to 1000
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds that a CPU has in each period
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of them that the container has; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// Weight beside other containers, 2 to 262144
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    /// CPUs, as "0-3,7"
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes, as "0-1"
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// 1: with idle priority only
    #[arg(long)]
    pub(crate) cpu_idle: Option<i64>,
    /// Bytes of memory; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<i64>,
    /// Bytes of memory that it should not exceed for long
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<i64>,
    /// Bytes of memory and swap; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<i64>,
    /// Number of tasks; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Name of the container
    pub(crate) id: String,
    /// Seconds between two reports
    #[arg(long, default_value = "5s")]
    pub(crate) interval: String,
    /// One report, then end
    #[arg(long)]
    pub(crate) stats: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Folder to write to (default: the working directory)
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) bundle: Option<PathBuf>,
    /// For a caller without rights outside of its user namespace
    #[arg(long)]
    pub(crate) rootless: bool,
}
