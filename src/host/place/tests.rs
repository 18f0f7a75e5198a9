use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn scratch(name: &str) -> PathBuf {
    let dir = env::temp_dir().join(format!("coracle-place-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn the_state_folder_is_private_and_a_foreign_one_is_refused() {
    let dir = scratch("private");
    State::below(&dir.join("a"), HostArch::X86_64, user()).unwrap();
    let mode = fs::metadata(dir.join("a/host-x86_64")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let other = State::below(&dir.join("a"), HostArch::X86_64, user() + 1);
    assert!(matches!(other, Err(HostError::Unsafe(_))));
    symlink(dir.join("a"), dir.join("link")).unwrap();
    let link = State::below(&dir.join("link"), HostArch::X86_64, user());
    assert!(matches!(link, Err(HostError::Unsafe(_))));
    fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o777)).unwrap();
    let open = State::below(&dir.join("a"), HostArch::X86_64, user());
    assert!(matches!(open, Err(HostError::Unsafe(_))));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn one_keeper_at_a_time_and_a_dead_one_frees_its_place() {
    let dir = scratch("locks");
    let state = State::below(&dir.join("s"), HostArch::Aarch64, user()).unwrap();
    let keeper = state.lock_keeper().unwrap().unwrap();
    assert!(state.lock_keeper().unwrap().is_none());
    drop(keeper);
    fs::write(state.socket(), "").unwrap();
    let _keeper = state.lock_keeper().unwrap().unwrap();
    state.clean();
    assert!(!state.socket().exists());
    let first = state.lock_start(Duration::ZERO).unwrap();
    let second = state.lock_start(Duration::from_millis(50));
    assert!(matches!(second, Err(HostError::Busy { .. })));
    drop(first);
    state.lock_start(Duration::ZERO).unwrap();
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_scratch_folder_goes_with_its_value_and_one_of_a_dead_process_with_the_next() {
    let dir = scratch("scratch");
    let base = dir.join("base");
    private(&base, user()).unwrap();
    // No process has this number: the kernel's limit is 2^22.
    fs::create_dir_all(base.join("once-9999999-1/deep")).unwrap();
    fs::create_dir_all(base.join("host-x86_64")).unwrap();
    let own = Scratch::below(&base, user()).unwrap();
    fs::write(own.join("initrd"), "").unwrap();
    assert_eq!(fs::read_dir(&base).unwrap().count(), 2);
    drop(own);
    assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "the other folder stays");
    fs::remove_dir_all(dir).unwrap();
}
