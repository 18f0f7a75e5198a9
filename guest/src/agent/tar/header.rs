//! Headers of ustar (POSIX.1-2017, pax) as bytes and as values.
use super::BLOCK;
use std::io;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Link,
    CharDevice,
    BlockDevice,
    Folder,
    Pipe,
}

/// An entry of an archive, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    /// Of a link.
    pub(super) target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
    /// Of a device: major and minor number.
    pub(super) device: (u32, u32),
}

/// A field: where it begins and how long it is.
type Field = (usize, usize);

const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const MODIFIED: Field = (136, 12);
const CHECKSUM: Field = (148, 8);
const TYPE: usize = 156;
const TARGET: Field = (157, 100);
const MAGIC: Field = (257, 8);
const MAJOR: Field = (329, 8);
const MINOR: Field = (337, 8);
const PREFIX: Field = (345, 155);

pub(super) type Block = [u8; BLOCK];

fn field(block: &Block, (at, len): Field) -> &[u8] {
    block.get(at..at + len).unwrap_or_default()
}

fn text(block: &Block, place: Field) -> &[u8] {
    let bytes = field(block, place);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is broken: {what}"))
}

/// Octal digits, or GNU's binary numbers, which have the highest bit set.
fn number(block: &Block, place: Field) -> io::Result<u64> {
    let bytes = field(block, place);
    let overflow = || wrong("a number is too large");
    if let Some((&first, rest)) = bytes.split_first()
        && first & 0x80 != 0
    {
        if first & 0x40 != 0 {
            return Err(wrong("a number is negative"));
        }
        return rest.iter().try_fold(u64::from(first & 0x3f), |value, byte| {
            let value = value.checked_mul(256).ok_or_else(overflow)?;
            Ok(value | u64::from(*byte))
        });
    }
    let digits = bytes.trim_ascii_start();
    let mut value: u64 = 0;
    for byte in digits {
        match byte {
            b'0'..=b'7' => {
                let digit = u64::from(byte - b'0');
                value = value.checked_mul(8).ok_or_else(overflow)? + digit;
            }
            0 | b' ' => break,
            _ => return Err(wrong("a number has digits that are not octal")),
        }
    }
    Ok(value)
}

/// All bytes, with blanks for the checksum itself.
fn checksum(block: &Block) -> u64 {
    let (at, len) = CHECKSUM;
    let bytes = block.iter().enumerate();
    bytes
        .map(|(n, byte)| u64::from(if (at..at + len).contains(&n) { b' ' } else { *byte }))
        .sum()
}

/// A header and its type byte; `None` for the block of zeros that ends an archive.
pub(super) fn parse(block: &Block) -> io::Result<Option<(Header, u8)>> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if number(block, CHECKSUM)? != checksum(block) {
        return Err(wrong("a header does not have its checksum"));
    }
    let mut name = text(block, PREFIX).to_vec();
    // GNU's headers have other fields there.
    if field(block, MAGIC).starts_with(b"ustar\0") && !name.is_empty() {
        name.push(b'/');
    } else {
        name.clear();
    }
    name.extend_from_slice(text(block, NAME));
    let small = |place| u32::try_from(number(block, place)?).map_err(|_| wrong("a number is too large"));
    let kind = block.get(TYPE).copied().unwrap_or(0);
    let header = Header {
        kind: match kind {
            b'1' => Kind::HardLink,
            b'2' => Kind::Link,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Folder,
            b'6' => Kind::Pipe,
            // Old archives mark folders by their names alone.
            0 | b'0' if name.ends_with(b"/") => Kind::Folder,
            _ => Kind::File,
        },
        name,
        target: text(block, TARGET).to_vec(),
        mode: small(MODE)?,
        uid: small(UID)?,
        gid: small(GID)?,
        size: number(block, SIZE)?,
        modified: i64::try_from(number(block, MODIFIED)?).map_err(|_| wrong("a time is too large"))?,
        device: if matches!(kind, b'3' | b'4') {
            (small(MAJOR)?, small(MINOR)?)
        } else {
            (0, 0)
        },
    };
    Ok(Some((header, kind)))
}

impl Header {
    /// Blocks for it: a pax header before it where ustar has no room.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let long = |records: &mut Vec<u8>, key: &str, value: &[u8]| records.extend(record(key, value));
        if self.name.len() > NAME.1 {
            long(&mut records, "path", &self.name);
        }
        if self.target.len() > TARGET.1 {
            long(&mut records, "linkpath", &self.target);
        }
        for (key, value, room) in [
            ("size", self.size, 8_u64.pow(11)),
            ("uid", self.uid.into(), 8_u64.pow(7)),
            ("gid", self.gid.into(), 8_u64.pow(7)),
        ] {
            if value >= room {
                long(&mut records, key, value.to_string().as_bytes());
            }
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let pax = Self {
                kind: Kind::File,
                name: b"pax".to_vec(),
                target: Vec::new(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: records.len() as u64,
                modified: 0,
                device: (0, 0),
            };
            bytes.extend(pax.block(b'x'));
            bytes.extend(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        let kind = match self.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Link => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Folder => b'5',
            Kind::Pipe => b'6',
        };
        bytes.extend(self.block(kind));
        bytes
    }

    fn block(&self, kind: u8) -> Block {
        let mut block = [0; BLOCK];
        put(&mut block, NAME, &self.name);
        put(&mut block, TARGET, &self.target);
        put(&mut block, MAGIC, b"ustar\x0000");
        octal(&mut block, MODE, (self.mode & 0o7777).into());
        octal(&mut block, UID, self.uid.into());
        octal(&mut block, GID, self.gid.into());
        octal(&mut block, SIZE, self.size);
        octal(&mut block, MODIFIED, u64::try_from(self.modified).unwrap_or(0));
        octal(&mut block, MAJOR, self.device.0.into());
        octal(&mut block, MINOR, self.device.1.into());
        put(&mut block, (TYPE, 1), &[kind]);
        let sum = checksum(&block);
        octal(&mut block, CHECKSUM, sum);
        block
    }
}

fn put(block: &mut Block, (at, len): Field, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).take(len).zip(bytes) {
        *to = *from;
    }
}

/// Digits and a NUL; the lowest digits if there is no room, for then a pax record has them all.
fn octal(block: &mut Block, (at, len): Field, value: u64) {
    let digits = format!("{:0width$o}", value, width = len - 1);
    let skip = digits.len().saturating_sub(len - 1);
    put(block, (at, len - 1), digits.as_bytes().get(skip..).unwrap_or_default());
}

/// `length key=value\n`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut bytes = format!("{length} {key}=").into_bytes();
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
    bytes
}

/// Puts the records of a pax header into the header that follows it.
pub(super) fn apply(records: &[u8], header: &mut Header) -> io::Result<()> {
    let mut rest = records;
    let broken = || wrong("a pax record");
    while !rest.is_empty() && rest.first() != Some(&0) {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length: usize = parse_text(rest.get(..space).unwrap_or_default())?;
        let body = rest.get(space + 1..length).ok_or_else(broken)?;
        let body = body.strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = body.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        match key {
            b"path" => header.name = value.to_vec(),
            b"linkpath" => header.target = value.to_vec(),
            b"size" => header.size = parse_text(value)?,
            b"uid" => header.uid = parse_text(value)?,
            b"gid" => header.gid = parse_text(value)?,
            b"mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                header.modified = parse_text(whole)?;
            }
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn parse_text<T: std::str::FromStr>(bytes: &[u8]) -> io::Result<T> {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong("a number in a pax record"))
}
