//! The guest as a machine, and its network.
use super::{Agent, AgentError, calls::random_token};
use coracle_protocol::sandbox::{
    Answer, Request,
    machine::{Clock, Clocks, Entropy, Freeze, Mount, Power, Sync, Thaw, Umount},
    network::{Dns, Forward, Hosts, Link, LinkStatus, Links, PortStatus, Ports, Route},
};
use std::{
    net::IpAddr,
    os::unix::net::UnixStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

impl Agent {
    /// Mounts a file system.
    pub fn mount(&self, mount: Mount) -> Result<(), AgentError> {
        self.calls.tell(&Request::Mount(mount))
    }

    /// Takes a mount away; with `lazy` at once, though it is in use.
    pub fn umount(&self, target: &str, lazy: bool) -> Result<(), AgentError> {
        self.calls.tell(&Request::Umount(Umount {
            target: target.to_owned(),
            lazy,
        }))
    }

    /// Holds the file system of a folder still, all changes written: for a snapshot of its disk.
    pub fn freeze(&self, path: &str) -> Result<(), AgentError> {
        self.calls.tell(&Request::Freeze(Freeze { path: path.to_owned() }))
    }

    /// Lets a file system go on.
    pub fn thaw(&self, path: &str) -> Result<(), AgentError> {
        self.calls.tell(&Request::Thaw(Thaw { path: path.to_owned() }))
    }

    /// Gives the guest 256 new random bits, which its generator uses at once: for the copies of one snapshot.
    pub fn reseed(&self) -> Result<(), AgentError> {
        let bytes = [random_token().0, random_token().0].concat();
        self.calls.tell(&Request::Entropy(Entropy { bytes }))
    }

    /// The guest's clocks.
    pub fn clocks(&self) -> Result<Clocks, AgentError> {
        self.clock(None)
    }

    /// Sets the guest's clock to this machine's.
    pub fn set_clock(&self) -> Result<Clocks, AgentError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.clock(u64::try_from(now.as_nanos()).ok())
    }

    fn clock(&self, set: Option<u64>) -> Result<Clocks, AgentError> {
        match self.calls.ask(&Request::Clock(Clock { set }))? {
            Answer::Clock(clocks) => Ok(clocks),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Has the guest write what is not on its disks yet.
    pub fn sync(&self) -> Result<(), AgentError> {
        self.calls.tell(&Request::Sync(Sync {}))
    }

    /// Powers the guest off. Its processes have `grace` to end by themselves.
    pub fn power_off(&self, grace: Duration) -> Result<(), AgentError> {
        self.power(false, grace)
    }

    /// Restarts the guest, likewise.
    pub fn restart(&self, grace: Duration) -> Result<(), AgentError> {
        self.power(true, grace)
    }

    fn power(&self, restart: bool, grace: Duration) -> Result<(), AgentError> {
        self.calls.tell(&Request::Power(Power {
            restart,
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
        }))
    }

    /// The guest's network links and their addresses.
    pub fn links(&self) -> Result<Vec<LinkStatus>, AgentError> {
        match self.calls.ask(&Request::Links(Links {}))? {
            Answer::Links(list) => Ok(list.links),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Changes a link: switches it on or off, adds and removes addresses.
    pub fn set_link(&self, link: Link) -> Result<(), AgentError> {
        self.calls.tell(&Request::Link(link))
    }

    /// Adds or removes a route.
    pub fn set_route(&self, route: Route) -> Result<(), AgentError> {
        self.calls.tell(&Request::Route(route))
    }

    /// Writes `/etc/resolv.conf`.
    pub fn set_dns(&self, dns: Dns) -> Result<(), AgentError> {
        self.calls.tell(&Request::Dns(dns))
    }

    /// Writes `/etc/hosts` and sets the guest's name.
    pub fn set_hosts(&self, hosts: Hosts) -> Result<(), AgentError> {
        self.calls.tell(&Request::Hosts(hosts))
    }

    /// TCP ports that somebody listens on in the guest.
    pub fn ports(&self) -> Result<Vec<PortStatus>, AgentError> {
        match self.calls.ask(&Request::Ports(Ports {}))? {
            Answer::Ports(list) => Ok(list.ports),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Connects to a TCP port of the guest: to 127.0.0.1 there unless another address is given.
    pub fn connect(&self, port: u16, address: Option<IpAddr>) -> Result<UnixStream, AgentError> {
        let stream = random_token();
        let request = Request::Forward(Forward {
            port,
            address: address.map(|address| address.to_string()),
            stream,
        });
        let (answer, mut came) = self.calls.send(&request, &[stream])?.answer_with_streams()?;
        super::calls::done(answer)?;
        came.remove(&stream).ok_or(AgentError::Unexpected)
    }
}
