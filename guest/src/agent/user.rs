//! Users and groups by their names in `/etc/passwd` and `/etc/group`.
use super::outbox::{invalid, refused};
use coracle_protocol::sandbox::{Failed, Reason};
use std::fs;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its further groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

impl Identity {
    /// `user`, `user:group`, or numbers in their place.
    pub(super) fn find(text: &str) -> Result<Self, Failed> {
        let read = |path: &str| match fs::read_to_string(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(refused(format!("read {path}"))(error)),
            text => Ok(text.unwrap_or_default()),
        };
        Self::look_up(text, &read("/etc/passwd")?, &read("/etc/group")?)
    }

    fn look_up(text: &str, passwd: &str, group: &str) -> Result<Self, Failed> {
        let (user, own_group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let number = user.parse::<u32>().ok();
        let known = lines(passwd).find(|line| match number {
            Some(number) => field(line, 2) == Some(number),
            None => line.first() == Some(&user),
        });
        let uid = match (number, &known) {
            (Some(number), _) => number,
            (None, Some(line)) => {
                field(line, 2).ok_or_else(|| invalid(format!("/etc/passwd: {user} has no number")))?
            }
            (None, None) => return Err(unknown("user", user, "/etc/passwd")),
        };
        let gid = match own_group {
            Some(name) => Self::group(name, group)?,
            None => known.as_ref().and_then(|line| field(line, 3)).unwrap_or(0),
        };
        let name = known.as_ref().and_then(|line| line.first().copied());
        let groups = match own_group {
            Some(_) => Vec::new(),
            None => lines(group)
                .filter(|line| {
                    let mut members = line.get(3).copied().unwrap_or_default().split(',');
                    name.is_some_and(|name| members.any(|member| member == name))
                })
                .filter_map(|line| field(&line, 2))
                .collect(),
        };
        let home = known.as_ref().and_then(|line| line.get(5).copied());
        Ok(Self {
            uid,
            gid,
            groups,
            home: home.filter(|home| !home.is_empty()).unwrap_or("/").to_string(),
        })
    }

    fn group(name: &str, group: &str) -> Result<u32, Failed> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        lines(group)
            .find(|line| line.first() == Some(&name))
            .and_then(|line| field(&line, 2))
            .ok_or_else(|| unknown("group", name, "/etc/group"))
    }
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn field(line: &[&str], at: usize) -> Option<u32> {
    line.get(at)?.parse().ok()
}

fn unknown(what: &str, name: &str, file: &str) -> Failed {
    failure_of(format!("there is no {what} {name:?} in {file}: give its number"))
}

fn failure_of(text: String) -> Failed {
    super::outbox::failure(Reason::NotFound, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nodd:x:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:4:syslog,web\nadm:x:5:web2\n";

    fn find(text: &str) -> Result<(u32, u32, Vec<u32>, String), Reason> {
        match Identity::look_up(text, PASSWD, GROUP) {
            Ok(found) => Ok((found.uid, found.gid, found.groups, found.home)),
            Err(failed) => Err(failed.reason),
        }
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(find("web"), Ok((33, 34, vec![4], "/srv".into())));
        assert_eq!(find("33"), Ok((33, 34, vec![4], "/srv".into())));
        assert_eq!(find("web:log"), Ok((33, 4, vec![], "/srv".into())));
        assert_eq!(find("web:99"), Ok((33, 99, vec![], "/srv".into())));
        assert_eq!(find("1000"), Ok((1000, 0, vec![], "/".into())));
        assert_eq!(find("1000:1000"), Ok((1000, 1000, vec![], "/".into())));
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert_eq!(find("nobody"), Err(Reason::NotFound));
        assert_eq!(find("web:none"), Err(Reason::NotFound));
        assert_eq!(find("odd"), Err(Reason::Invalid));
        assert_eq!(find(""), Err(Reason::NotFound));
    }
}
