//! `--drive`: a drive of the config in one word.
use coracle::config::raw::{CacheType, Drive, IoEngine, VmConfig};

/// Reads `FILE[,OPTION]...`. The name is left empty if none is given, see [`add`].
pub(super) fn parse(text: &str) -> Result<Drive, String> {
    let mut words = text.split(',');
    let file = words.next().filter(|file| !file.is_empty());
    let mut drive = Drive {
        path_on_host: Some(file.ok_or("a drive begins with the path of its file")?.into()),
        ..Drive::default()
    };
    for word in words {
        match word.split_once('=') {
            None if word == "ro" => drive.is_read_only = Some(true),
            None if word == "root" => drive.is_root_device = true,
            None if word == "direct" => drive.direct_io = Some(true),
            None if word == "discard" => drive.discard = Some(true),
            Some(("cache", "unsafe")) => drive.cache_type = Some(CacheType::Unsafe),
            Some(("cache", "writeback")) => drive.cache_type = Some(CacheType::Writeback),
            Some(("engine", "sync")) => drive.io_engine = Some(IoEngine::Sync),
            Some(("engine", "async")) => drive.io_engine = Some(IoEngine::Async),
            Some(("queues", number)) => {
                let parsed = number
                    .parse()
                    .map_err(|_| format!("{number:?} is no number of queues"))?;
                drive.num_queues = Some(parsed);
            }
            Some(("overlay", file)) => drive.overlay = Some(file.into()),
            Some(("id", id)) if !id.is_empty() => id.clone_into(&mut drive.drive_id),
            _ => {
                return Err(format!(
                    "{word:?} is none of ro, root, direct, discard, cache=unsafe, cache=writeback, engine=sync, \
                     engine=async, queues=N, overlay=FILE, id=NAME; a path with a comma goes into a config file"
                ));
            }
        }
    }
    Ok(drive)
}

/// Adds a drive, under the first name of `drive0`, `drive1` … that is free if it has none.
pub(super) fn add(config: &mut VmConfig, drive: &Drive) {
    let mut drive = drive.clone();
    if drive.drive_id.is_empty() {
        let is_free = |name: &String| config.drives.iter().all(|drive| drive.drive_id != *name);
        drive.drive_id = (0..=config.drives.len())
            .map(|n| format!("drive{n}"))
            .find(is_free)
            .unwrap_or_default();
    }
    config.drives.push(drive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_path() {
        let all = "d.img,ro,root,direct,discard,cache=writeback,engine=async,queues=2,overlay=o,id=x";
        let drive = parse(all).unwrap();
        let expected = Drive {
            drive_id: "x".to_owned(),
            is_root_device: true,
            path_on_host: Some("d.img".into()),
            is_read_only: Some(true),
            cache_type: Some(CacheType::Writeback),
            io_engine: Some(IoEngine::Async),
            discard: Some(true),
            direct_io: Some(true),
            num_queues: Some(2),
            overlay: Some("o".into()),
            ..Drive::default()
        };
        assert_eq!(drive, expected);
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for text in ["", ",ro", "d,rw", "d,queues=x", "d,engine=aio", "d,id="] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn drives_without_a_name_get_one() {
        let mut config = VmConfig::default();
        for text in ["a,id=drive1", "b", "c"] {
            add(&mut config, &parse(text).unwrap());
        }
        let names: Vec<_> = config.drives.iter().map(|drive| drive.drive_id.as_str()).collect();
        assert_eq!(names, ["drive1", "drive0", "drive2"]);
    }
}
