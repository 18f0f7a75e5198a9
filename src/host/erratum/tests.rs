use super::*;

/// The code in question with `gap` bytes between load and store.
fn code(gap: usize) -> Vec<u8> {
    let mut bytes = vec![0x41, 0x0f, 0xb6, 0xf5];
    bytes.extend(std::iter::repeat_n(0x90, gap));
    bytes.extend([0x89, 0xb3, 0x18, 0xa5, 0xff, 0xff]);
    bytes.extend([0xc7, 0x83, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0x48, 0xc7, 0x83, 0x38, 0x12, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    bytes
}

fn image(parts: &[&[u8]]) -> Vec<u8> {
    let mut image = vec![0xcc; 100];
    for part in parts {
        image.extend_from_slice(part);
        image.extend([0xcc; 50]);
    }
    image
}

#[test]
fn the_store_is_found_with_each_length_of_the_code_before_it() {
    for gap in 6..=8 {
        assert_eq!(find_store(&image(&[&code(gap)])), Some(100 + 4 + gap));
    }
    assert_eq!(find_store(&image(&[&code(5)])), None);
    assert_eq!(find_store(&image(&[&code(9)])), None);
}

#[test]
fn code_that_is_not_exactly_the_known_one_is_left_alone() {
    assert_eq!(find_store(&image(&[&code(6), &code(6)])), None, "twice");
    assert_eq!(find_store(&[]), None);
    let whole = code(7);
    // The displacements may be anything; each other byte counts.
    let free = [13, 14, 19, 20, 30, 31, 4, 5, 6, 7, 8, 9, 10];
    for at in (0..whole.len()).filter(|at| !free.contains(at)) {
        let mut changed = whole.clone();
        changed[at] ^= 0x48;
        assert_eq!(find_store(&image(&[&changed])), None, "byte {at}");
    }
    assert_eq!(find_store(&whole[..whole.len() - 1]), None, "cut off");
}

#[test]
fn the_copy_differs_in_the_six_bytes_and_is_made_once() {
    let dir = std::env::temp_dir().join(format!("coracle-erratum-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let old = image(&[&code(6)]);
    fs::write(dir.join("installed"), &old).unwrap();
    let Erratum::Patched(copy) = patched_copy(&dir.join("installed"), &dir).unwrap() else {
        panic!("not patched");
    };
    let new = fs::read(&copy).unwrap();
    let changed: Vec<usize> = (0..old.len()).filter(|&i| old[i] != new[i]).collect();
    assert!(changed.iter().all(|i| (110..116).contains(i)) && new[110..116] == NOP);
    let made = fs::metadata(&copy).unwrap().modified().unwrap();
    patched_copy(&dir.join("installed"), &dir).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().modified().unwrap(), made);
    fs::write(dir.join("installed"), "fixed").unwrap();
    assert_eq!(patched_copy(&dir.join("installed"), &dir).unwrap(), Erratum::Unknown);
    fs::remove_dir_all(dir).unwrap();
}
