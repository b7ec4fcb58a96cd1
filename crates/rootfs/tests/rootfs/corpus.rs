//! Every seed and every former finding of the fuzz targets once more, with the functions they are fuzzed with.

#[expect(unreachable_pub, reason = "a library to the fuzz targets")]
#[path = "../../../../tests/fuzz/src/lib.rs"]
mod invariants;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        let checked = std::panic::catch_unwind(|| check(&data));
        assert!(checked.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count > 3, "{count} seeds for {target}");
}

#[test]
fn layers() {
    replay("layer", invariants::layer::check);
}

#[test]
fn archives() {
    replay("archive", invariants::archive::check);
}

#[test]
fn manifests() {
    replay("manifest", invariants::manifest::check);
}

#[test]
fn configs() {
    replay("config", invariants::config::check);
}
