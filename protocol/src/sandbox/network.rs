//! Messages about the guest's network. Addresses are text: `10.0.0.2`, `fd00::2`; networks have a length: `10.0.0.2/24`.
use super::Token;
use serde::{Deserialize, Serialize};

/// Ask for the links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {}

/// All links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkList {
    /// As the kernel numbers them.
    pub links: Vec<LinkStatus>,
}

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `eth0`.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// It is switched on.
    pub up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// Bytes that a packet may have.
    pub mtu: u32,
    /// `52:54:00:12:34:56`; empty if it has none.
    pub mac: String,
    /// Its addresses with the lengths of their networks.
    pub addresses: Vec<String>,
}

/// Change a link. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Which.
    pub name: String,
    /// Switch it on or off.
    #[serde(default)]
    pub up: Option<bool>,
    /// Bytes that a packet may have.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Addresses to add, with the lengths of their networks. Those that are there are fine.
    #[serde(default)]
    pub add: Vec<String>,
    /// Addresses to remove, likewise.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Add or remove a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to: a network, or nothing for the default route, whose family is that of `via`.
    #[serde(default)]
    pub to: Option<String>,
    /// The router.
    #[serde(default)]
    pub via: Option<String>,
    /// The link; without it the one that the router is on.
    #[serde(default)]
    pub link: Option<String>,
    /// The lower, the better.
    #[serde(default)]
    pub metric: Option<u32>,
    /// Remove it.
    #[serde(default)]
    pub remove: bool,
}

/// What `/etc/resolv.conf` shall say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Domains to search.
    #[serde(default)]
    pub search: Vec<String>,
    /// Options, such as `ndots:2`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Folder that `/etc` is beneath.
    #[serde(default)]
    pub root: Option<String>,
}

/// What `/etc/hosts` shall say, beyond `localhost`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// Address and names of each host.
    #[serde(default)]
    pub entries: Vec<(String, Vec<String>)>,
    /// The guest's own name.
    #[serde(default)]
    pub name: Option<String>,
    /// Folder that `/etc` is beneath.
    #[serde(default)]
    pub root: Option<String>,
}

/// Ask for listening TCP sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {}

/// Listening TCP sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortList {
    /// In the kernel's order.
    pub ports: Vec<PortStatus>,
}

/// One socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port.
    pub port: u16,
    /// The address that it listens on: `0.0.0.0`, `::`.
    pub address: String,
    /// Who listens.
    pub uid: u32,
}

/// Connect a stream to a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The port.
    pub port: u16,
    /// The address; 127.0.0.1 without one.
    #[serde(default)]
    pub address: Option<String>,
    /// The stream, both ways.
    pub stream: Token,
}
