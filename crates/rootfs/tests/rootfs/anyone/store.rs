//! The layer store.

use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use smokegate_rootfs::{
    ErrorKind, FillEvent, FillPlan, LayerStore, RootDir, StoredLayer, remove_tree, tree_dump,
};

use crate::layer::{Layer, policy};

const BOOT: &str = "boot-1";

struct TempStore(tempfile::TempDir);

impl TempStore {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("store")
    }

    fn open(&self, boot: &str) -> LayerStore {
        LayerStore::open(&self.path(), boot).unwrap()
    }
}

impl Drop for TempStore {
    fn drop(&mut self) {
        let parent = RootDir::open(self.0.path()).unwrap();
        remove_tree(parent.as_fd(), b"store").unwrap();
    }
}

fn layers() -> Vec<Layer> {
    let base = Layer::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o555)
        .file("usr/lib/a", 0o644, b"a")
        .symlink("lib", "usr/lib")
        .dir("tmp", 0o1777);
    let middle = Layer::new()
        .file("lib/b", 0o644, b"b")
        .file("tmp/x", 0o600, &[1; 100_000]);
    let top = Layer::new()
        .hardlink("c", "lib/a")
        .file("tmp/.wh.x", 0, b"");
    vec![base, middle, top]
}

fn plan(layers: &[Layer]) -> FillPlan {
    FillPlan {
        layers: layers.iter().map(Layer::plan).collect(),
        policy: policy(),
    }
}

fn fill(store: &LayerStore, layers: &[Layer]) -> Vec<StoredLayer> {
    store
        .fill(&plan(layers), |index| Ok(layers[index].reader()), &|_| {})
        .unwrap()
}

fn dump(layers: &[StoredLayer]) -> String {
    let dirs: Vec<RootDir> = layers
        .iter()
        .rev()
        .map(|layer| RootDir::open(&layer.path).unwrap())
        .collect();
    tree_dump(&smokegate_rootfs::MergedView::new(dirs.iter().collect())).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn second_filling_reads_nothing() {
    let temp = TempStore::new();
    let store = temp.open(BOOT);
    let layers = layers();
    let first = fill(&store, &layers);
    assert!(first.iter().all(|layer| !layer.cached));
    let nothing = |_| -> io::Result<Box<dyn BufRead + Send>> { panic!("opened a stored layer") };
    let second = store.fill(&plan(&layers), nothing, &|_| {}).unwrap();
    assert!(second.iter().all(|layer| layer.cached));
    assert_eq!(dump(&first), dump(&second));
    let text = dump(&second);
    assert!(text.contains("/usr/lib/b file"), "{text}");
    assert!(text.contains("/tmp dir 1777"), "{text}");
    assert!(
        text.lines()
            .any(|line| line.starts_with("/usr/lib/a ") && line.ends_with("= /c")),
        "{text}"
    );
    assert!(!text.contains("/tmp/x"), "{text}");
    assert_eq!(names(&temp.path().join("tmp")), Vec::<String>::new());
}

#[test]
fn layers_are_unpacked_side_by_side() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return; // One at a time is right there.
    }
    let temp = TempStore::new();
    let layers = layers();
    let (begun, changed) = (Mutex::new(0), Condvar::new());
    let open = |index: usize| {
        let mut count = begun.lock().unwrap();
        *count += 1;
        changed.notify_all();
        // Nobody waits this long where a second one begins.
        let alone = |count: &mut usize| *count < 2;
        let long = Duration::from_secs(60);
        let (_count, waited) = changed.wait_timeout_while(count, long, alone).unwrap();
        assert!(!waited.timed_out(), "no other layer was begun");
        Ok(layers[index].reader())
    };
    temp.open(BOOT).fill(&plan(&layers), open, &|_| {}).unwrap();
}

#[test]
fn one_layer_on_two_bases_is_right_on_both() {
    let temp = TempStore::new();
    let store = temp.open(BOOT);
    let top = Layer::new().file("lib/x", 0o644, b"x");
    let linked = Layer::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib");
    let plain = Layer::new().dir("lib", 0o700);
    let on_linked = fill(&store, &[linked, top.clone()]);
    let on_plain = fill(&store, &[plain, top]);
    assert!(dump(&on_linked).contains("/usr/lib/x file"));
    assert!(dump(&on_plain).contains("/lib dir 0700"));
    assert!(dump(&on_plain).contains("/lib/x file"));
    assert_eq!(on_linked[1].diff_id, on_plain[1].diff_id);
    assert_eq!(store.list().unwrap().len(), 4);
}

#[test]
fn layers_of_another_boot_count_only_when_synced() {
    let temp = TempStore::new();
    let layers = layers();
    drop(fill(&temp.open(BOOT), &layers));
    let store = temp.open("boot-2");
    let again = fill(&store, &layers);
    assert!(again.iter().all(|layer| !layer.cached));
    drop(again);
    store.sync().unwrap();
    assert!(
        fill(&temp.open("boot-3"), &layers)
            .iter()
            .all(|layer| layer.cached)
    );
}

#[test]
fn an_entry_without_a_whole_mark_is_filled_again() {
    for damage in ["", "{\"version\":1", "{}"] {
        let temp = TempStore::new();
        let store = temp.open(BOOT);
        let layers = layers();
        let path = fill(&store, &layers)[1].path.clone();
        let mark = path.parent().unwrap().join("complete");
        std::fs::write(&mark, damage).unwrap();
        std::fs::write(path.join("planted"), "").unwrap();
        assert_eq!(store.list().unwrap().len(), 2);
        let again = fill(&store, &layers);
        let cached: Vec<bool> = again.iter().map(|layer| layer.cached).collect();
        assert_eq!(cached, [true, false, true], "{damage}");
        assert!(!path.join("planted").exists());
    }
}

#[test]
fn a_layer_that_fails_leaves_nothing_incomplete() {
    // The first two are no good tar either; what is said is that these are not the layer's bytes.
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |tar| tar[..700].to_vec(),
        |mut tar| {
            tar[0] ^= 1;
            tar
        },
        |tar| tar[..tar.len() - 512].to_vec(),
        |mut tar| {
            let last = tar.len() - 1;
            tar[last] = 1;
            tar
        },
    ];
    for damage in damages {
        let temp = TempStore::new();
        let store = temp.open(BOOT);
        let layers = layers();
        let open = |index: usize| -> io::Result<Box<dyn BufRead + Send>> {
            if index != 1 {
                return Ok(layers[index].reader());
            }
            let tar = io::Cursor::new(damage(layers[1].tar()));
            let digest = layers[1].plan().diff_id.0;
            let tar = smokegate_image::VerifiedReader::new(tar, digest, None);
            Ok(Box::new(BufReader::new(tar)))
        };
        let error = store.fill(&plan(&layers), open, &|_| {}).unwrap_err();
        assert!(
            error.to_string().starts_with("layer 2 (diff id sha256:"),
            "{error}"
        );
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "cannot read the layer");
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(store.list().unwrap().len() < 2);
        assert_eq!(names(&temp.path().join("tmp")), Vec::<String>::new());
        assert_eq!(fill(&store, &layers).len(), 3);
    }
}

#[test]
fn a_new_blob_of_a_stored_layer_is_verified_once() {
    let temp = TempStore::new();
    let store = temp.open(BOOT);
    let layers = layers();
    drop(fill(&store, &layers));
    let mut plan = plan(&layers);
    plan.layers[0].blob =
        smokegate_image::LayerDigest(smokegate_image::Digest::sha256(b"compressed"));
    let wrong = |_: usize| -> io::Result<Box<dyn BufRead + Send>> {
        let digest = layers[0].plan().diff_id.0;
        let tar = smokegate_image::VerifiedReader::new(io::empty(), digest, None);
        Ok(Box::new(BufReader::new(tar)))
    };
    store.fill(&plan, wrong, &|_| {}).unwrap_err();
    for expected in [1, 0] {
        let events = Mutex::new(Vec::new());
        let observer = |event| events.lock().unwrap().push(event);
        store
            .fill(&plan, |index| Ok(layers[index].reader()), &observer)
            .unwrap();
        let events = events.into_inner().unwrap();
        let verified = events
            .iter()
            .filter(|event| **event == FillEvent::Verified(0))
            .count();
        assert_eq!(verified, expected, "{events:?}");
    }
}

#[test]
fn concurrent_fillings_unpack_each_layer_once() {
    let temp = TempStore::new();
    let layers = layers();
    let unpacked = AtomicUsize::new(0);
    let observer = |event| {
        if matches!(event, FillEvent::Unpacking(_)) {
            unpacked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let dumps: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (temp, layers, observer) = (&temp, &layers, &observer);
                scope.spawn(move || {
                    // Some images are only the lower part of others.
                    let layers = &layers[..2 + thread % 2];
                    let store = temp.open(BOOT);
                    let stored = store
                        .fill(&plan(layers), |index| Ok(layers[index].reader()), observer)
                        .unwrap();
                    dump(&stored[..2])
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(unpacked.into_inner(), 3);
    assert!(dumps.iter().all(|dump| *dump == dumps[0]));
    assert_eq!(names(&temp.path().join("tmp")), Vec::<String>::new());
}

#[test]
fn pruning_spares_what_is_in_use_or_recent() {
    let temp = TempStore::new();
    let store = temp.open(BOOT);
    let layers = layers();
    let used = fill(&store, &layers[..1]);
    drop(fill(&store, &layers));
    assert_eq!(
        store.prune(Some(Duration::from_secs(3600))).unwrap().len(),
        0
    );
    let removed = store.prune(None).unwrap();
    assert_eq!(removed.len(), 2);
    assert!(
        removed
            .iter()
            .all(|layer| layer.chain_id != used[0].chain_id)
    );
    assert_eq!(store.list().unwrap().len(), 1);
    drop(used);
    assert_eq!(store.prune(Some(Duration::ZERO)).unwrap().len(), 1);
    assert_eq!(
        names(&temp.path().join("layers/single")),
        Vec::<String>::new()
    );
    assert_eq!(fill(&store, &layers).len(), 3);
}

#[test]
fn what_a_killed_filling_left_is_removed() {
    let temp = TempStore::new();
    let store = temp.open(BOOT);
    let left = temp.path().join("tmp/999-0/0/diff");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("file"), "").unwrap();
    let alive = temp.path().join("tmp/998-0");
    std::fs::create_dir(&alive).unwrap();
    let lock = std::fs::File::open(&alive).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fill(&store, &layers());
    assert_eq!(names(&temp.path().join("tmp")), ["998-0"]);
}

#[test]
fn the_store_is_its_owners_alone() {
    let temp = TempStore::new();
    temp.open(BOOT);
    let mode = std::os::unix::fs::MetadataExt::mode(&temp.path().metadata().unwrap());
    assert_eq!(mode & 0o777, 0o700);
}
