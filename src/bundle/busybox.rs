//! A static busybox as the user space of an initramfs: which applets it has, read from the program itself, so that it
//! need not run here (it may be another architecture's).

/// The names that busybox answers to, as its own sorted table lists them; empty if there is no such table.
pub(crate) fn applets(program: &[u8]) -> Vec<&str> {
    // The table is a run of NUL-terminated names; `[` and `[[` sort first.
    const START: &[u8] = b"\0[\0[[\0";
    let start = program.windows(START.len()).position(|window| window == START);
    let table = start.and_then(|at| program.get(at + 1..)).unwrap_or_default();
    let names = table.split(|&byte| byte == 0).map_while(|name| {
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"[_-.".contains(byte);
        str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty() && name.bytes().all(|byte| fine(&byte)))
    });
    // There are a few hundred; more is something else.
    names.take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_to_its_end() {
        let program = b"\x7fELF..usage\0[\0[[\0cat\0sh\0uname\0\0/var/log";
        assert_eq!(applets(program), ["[", "[[", "cat", "sh", "uname"]);
        assert!(applets(b"\x7fELF no table").is_empty());
    }
}
