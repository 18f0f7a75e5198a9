//! What each verb does with its arguments; the work itself is the library's.
use crate::{
    arguments::{Arguments, Command, Create, Format, List},
    log::Log,
};
use coracle_guest::container::{
    Error, Result,
    lifecycle::{self, Wishes},
    run::{self, Manner},
    signals,
    state::{Record, Status, Store, user_name},
};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
};

/// Runs a command; the exit code.
pub(crate) fn run(arguments: Arguments, log: &Log) -> Result<u8> {
    refuse(&arguments)?;
    let store = Store::new(arguments.root.clone().unwrap_or_else(default_root));
    let warn = |message: &str| log.warn(message);
    match arguments.command {
        Command::Create(create) => lifecycle::create(&store, &create.id.clone(), &wishes(create), &warn)?,
        Command::Start(name) => lifecycle::start(&store, &name.id, &warn)?,
        Command::Run(wish) => {
            let manner = Manner {
                detach: wish.detach,
                keep: wish.keep,
                no_subreaper: wish.no_subreaper,
            };
            return run::run(&store, &wish.create.id.clone(), &wishes(wish.create), manner, &warn);
        }
        Command::State(name) => {
            let (record, status) = lifecycle::look(&store, &name.id)?;
            print(&format!("{:#}\n", describe(&record, status)))?;
        }
        Command::Kill(kill) => lifecycle::kill(&store, &kill.id, signals::parse(&kill.signal)?, kill.all)?,
        Command::Delete(delete) => lifecycle::delete(&store, &delete.id, delete.force, &warn)?,
        Command::List(wish) => print(&list(&store, &wish)?)?,
        _ => return Err(Error::state("x", "not yet")),
    }
    Ok(0)
}

/// What this runtime does not have must not be taken for something that it has.
fn refuse(arguments: &Arguments) -> Result<()> {
    let refused = [
        (
            arguments.systemd_cgroup,
            "--systemd-cgroup: cgroups by systemd are not supported; leave it out",
        ),
        (
            arguments.criu.is_some(),
            "--criu: checkpoints are not supported; leave it out",
        ),
    ];
    match refused.into_iter().find(|(wanted, _)| *wanted) {
        Some((_, why)) => Err(Error::Refused(why.to_owned())),
        None => Ok(()),
    }
}

fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    own.map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join("coracle-oci")
}

fn wishes(create: Create) -> Wishes {
    Wishes {
        bundle: create.bundle.unwrap_or_else(|| ".".into()),
        console_socket: create.console_socket,
        pid_file: create.pid_file,
        preserve_fds: create.preserve_fds,
        no_pivot: create.no_pivot,
        no_new_keyring: create.no_new_keyring,
    }
}

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

fn list(store: &Store, wish: &List) -> Result<String> {
    let all = lifecycle::list(store)?;
    if wish.quiet {
        return Ok(all.iter().map(|(record, _)| format!("{}\n", record.id)).collect());
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
