//! Splits `/proc/PID/smaps` into guest memory and the VMM's own.
use super::Memory;
use std::ops::Range;

/// One mapping. Sizes in KiB.
#[derive(Debug, Default)]
struct Mapping {
    place: Range<u64>,
    rss: u64,
    pss: u64,
    anonymous: u64,
}

/// Adds the mappings up. Guest memory is the `memory_mib` that end where the largest mapping ends, since what a VMM maps
/// over guest memory (a kernel's pages, say) lies at its low end; without a mapping of at least half that size nothing
/// is taken for guest memory.
pub fn split(smaps: &str, memory_mib: u64) -> Memory {
    let mappings = parse(smaps);
    let size = |mapping: &&Mapping| mapping.place.end - mapping.place.start;
    let guest = mappings
        .iter()
        .max_by_key(size)
        .filter(|largest| size(largest) >= memory_mib << 19)
        .map_or(0..0, |largest| {
            largest.place.end.saturating_sub(memory_mib << 20)..largest.place.end
        });
    let mut sum = Memory::default();
    for mapping in &mappings {
        if guest.start <= mapping.place.start && mapping.place.end <= guest.end {
            sum.rss_guest += mapping.rss;
            sum.anonymous_guest += mapping.anonymous;
        } else {
            sum.rss_beyond += mapping.rss;
            sum.pss_beyond += mapping.pss;
            sum.anonymous_beyond += mapping.anonymous;
        }
    }
    sum
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(place) = range(first) {
            mappings.push(Mapping {
                place,
                ..Mapping::default()
            });
        } else if let (Some(mapping), Some(Ok(kib))) = (mappings.last_mut(), words.next().map(str::parse)) {
            match first {
                "Rss:" => mapping.rss = kib,
                "Pss:" => mapping.pss = kib,
                "Anonymous:" => mapping.anonymous = kib,
                _ => {}
            }
        }
    }
    mappings
}

/// `55d0c000-55d10000`.
fn range(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 MiB of guest memory at 0x1000000, a file mapped into it, and two mappings around it that touch it.
    const SMAPS: &str = "\
00ff0000-01000000 rw-p 00000000 00:00 0 \nRss: 8 kB\nPss: 8 kB\nAnonymous: 8 kB\nVmFlags: rd wr\n\
01000000-01100000 rw-p 00000000 00:00 0 \nRss: 16 kB\nPss: 16 kB\nAnonymous: 16 kB\n\
01100000-01180000 rw-p 00200000 00:01 7 /kernel\nRss: 512 kB\nPss: 256 kB\nAnonymous: 64 kB\n\
01180000-01400000 rw-p 00000000 00:00 0 \nRss: 2048 kB\nPss: 2048 kB\nAnonymous: 2048 kB\n\
01400000-01408000 r-xp 00000000 00:01 9 /lib/libc.so.6\nRss: 32 kB\nPss: 4 kB\nAnonymous: 0 kB\n";

    #[test]
    fn what_is_mapped_over_guest_memory_is_guest_memory_and_neighbours_are_not() {
        let expected = Memory {
            rss_beyond: 40,
            pss_beyond: 12,
            anonymous_beyond: 8,
            rss_guest: 2576,
            anonymous_guest: 2128,
        };
        assert_eq!(split(SMAPS, 4), expected);
    }

    #[test]
    fn a_process_without_guest_memory_has_none() {
        assert_eq!(split(SMAPS, 64).rss_guest, 0);
        assert_eq!(split(SMAPS, 64).rss_beyond, 2616);
        assert_eq!(split("", 4), Memory::default());
    }
}
