//! PID 1 of the emulated host: mounts, modules, network, then commands for its clients.
//!
//! One thread per connection and one that reaps every child ([`Children`]). A command may crash, fill the memory or
//! be killed: the host goes on. Without its keeper the host has no purpose, so losing the control connection powers
//! it off.
use coracle_guest::children::Children;
use coracle_protocol::{
    agent::{FromAgent, Hello, MODULES_FILE, Order, SETUP_FILE, Setup, Token, VERSION},
    frame,
};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

mod children;
mod command;
mod files;
mod machine;
mod once;
mod server;

/// What the agent's threads share.
struct Agent {
    children: Children,
    stamps: files::Stamps,
}

/// Why the host cannot do its work.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// A step of the start failed.
    #[error("cannot {0}")]
    Step(String, #[source] io::Error),
    /// The keeper's words make no sense.
    #[error("the keeper broke off")]
    Keeper(#[from] frame::FrameError),
}

/// Names the step that failed.
fn step(wish: impl Into<String>) -> impl FnOnce(io::Error) -> AgentError {
    let wish = wish.into();
    move |error| AgentError::Step(wish, error)
}

/// QEMU's user network: this host, and the machine that it runs on.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const KEEPER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Runs as PID 1 until the host powers off. Errors go to the console, whose tail the keeper shows.
pub fn run() -> ! {
    if let Err(error) = serve() {
        eprintln!("coracle host: {}", files::explain(&error));
    }
    machine::power_off()
}

fn serve() -> Result<(), AgentError> {
    machine::mount_all()?;
    let setup = fs::File::open(SETUP_FILE).map_err(step("open the setup"))?;
    let setup = frame::read(&mut io::BufReader::new(setup))?;
    // The token is of no use to a command.
    fs::remove_file(SETUP_FILE).map_err(step("remove the setup"))?;
    let modules = fs::read_to_string(MODULES_FILE).map_err(step("read the list of modules"))?;
    machine::load_modules(&modules)?;
    machine::tune();
    let agent = Arc::new(Agent {
        children: Children::new().map_err(step("start the reaper"))?,
        stamps: files::Stamps::default(),
    });
    machine::bring_up("lo", Ipv4Addr::LOCALHOST, Ipv4Addr::new(255, 0, 0, 0))?;
    match setup {
        Some(Setup::Serve { port, token }) => {
            machine::bring_up("eth0", ADDRESS, NETMASK)?;
            control(&agent, SocketAddrV4::new(KEEPER, port), token)
        }
        Some(Setup::Once { exec, stdin, files_out }) => once::run(&agent, exec, stdin, &files_out),
        None => Err(AgentError::Step(
            "read the setup".into(),
            io::ErrorKind::UnexpectedEof.into(),
        )),
    }
}

/// Obeys the keeper until it says power off or goes away.
fn control(agent: &Arc<Agent>, keeper: SocketAddrV4, token: Token) -> Result<(), AgentError> {
    let mut connection = TcpStream::connect_timeout(&keeper.into(), Duration::from_secs(10))
        .map_err(step(format!("reach the keeper at {keeper}")))?;
    let _ = connection.set_nodelay(true);
    let hello = Hello::Control {
        version: VERSION,
        token,
    };
    frame::write(&mut connection, &hello)?;
    let mut orders = connection.try_clone().map_err(step("share the control connection"))?;
    while let Some(order) = frame::read(&mut orders)? {
        match order {
            Order::Ping { number, now } => {
                set_clock(now);
                frame::write(&mut connection, &FromAgent::Pong { number })?;
            }
            Order::Dial { token } => {
                let agent = Arc::clone(agent);
                let spawned = thread::Builder::new().name("client".into()).spawn(move || {
                    if let Err(error) = channel(&agent, keeper, token) {
                        eprintln!("coracle host: a client's connection: {error}");
                    }
                });
                if let Err(error) = spawned {
                    eprintln!("coracle host: cannot start a thread: {error}");
                }
            }
            Order::PowerOff => break,
        }
    }
    Ok(())
}

fn channel(agent: &Agent, keeper: SocketAddrV4, token: Token) -> Result<(), AgentError> {
    let mut connection = TcpStream::connect_timeout(&keeper.into(), Duration::from_secs(10))
        .map_err(step(format!("reach the keeper at {keeper}")))?;
    let _ = connection.set_nodelay(true);
    frame::write(&mut connection, &Hello::Channel { token })?;
    server::serve(agent, connection)
}

/// Follows the keeper's clock where the two differ by more than a second: file times then compare.
fn set_clock(now: u64) {
    let here = clock_gettime(ClockId::Realtime);
    let seconds = i64::try_from(now / 1_000_000_000).unwrap_or(i64::MAX);
    if here.tv_sec.abs_diff(seconds) > 1 {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(now % 1_000_000_000).unwrap_or(0),
        };
        let _ = clock_settime(ClockId::Realtime, time);
    }
}
