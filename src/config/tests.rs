use super::*;

/// The config of the first page of the README.
#[test]
fn the_hello_example_boots_the_bundle() {
    let spec = parse(include_str!("../../resources/vm/hello.json")).unwrap();
    assert_eq!(spec.boot.source, spec::BootSource::Bundle("target/bundle".into()));
    assert_eq!(spec.boot.command, ["/bin/uname", "-a"]);
    assert_eq!((spec.vcpus, spec.memory.bytes), (1, 256 << 20));
}
