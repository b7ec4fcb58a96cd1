//! Memory does not grow with the size of a layer.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use smokegate_test_support::{ImageFixture, ProcessTree, RegistryOptions, RunAs, Smokegate};

use super::{Registry, beside_registry, smokegate, text};

/// KiB a process of smokegate may have had at its peak.
const LIMIT: u64 = 64 * 1024;

#[test]
fn rootless_peak_memory_is_bounded_for_a_layer_of_2_gb() {
    let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    context.limit(Duration::from_secs(240));
    let fixture = "entrypoint: /probe-target serve\n\
                   layer gzip\n\
                   dir /tmp 1777 0:0\n\
                   file /probe-target 0755 0:0 @probe-target\n\
                   layer gzip\n\
                   file /zeros 0644 0:0 zeros:2G\n\
                   file /noise 0644 0:0 random:48M:7\n";
    let archive = context.dir().join("large.tar");
    ImageFixture::parse(fixture)
        .unwrap()
        .build()
        .write_oci_archive(&archive, None);
    let tag = format!("oci:{}:v1", context.dir().join("layout").display());
    let words = ["ship", text(&archive), "--publish", "0:8080", "--tag", &tag];
    let peaks = peaks(&context, &words);
    // smokegate, the helper that unpacks and the one that runs the pod.
    assert!(peaks.len() >= 3, "{peaks:?}");
    assert!(
        peaks.values().all(|(_, peak)| *peak < LIMIT),
        "peaks in KiB: {peaks:?}"
    );
}

/// What travels from one registry to another, through a file, is not in memory on the way.
#[test]
fn registry_real_rootless_peak_memory_of_a_promotion_is_bounded() {
    let Some((context, from)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let Some(to) = Registry::start(RegistryOptions::default()) else {
        return;
    };
    let fixture = "entrypoint: /zeros\n\
                   layer plain\n\
                   file /zeros 0644 0:0 zeros:400M\n";
    let archive = context.dir().join("large.tar");
    ImageFixture::parse(fixture)
        .unwrap()
        .build()
        .write_oci_archive(&archive, None);
    let (source, target) = (from.reference("team/app:1"), to.reference("team/app:1"));
    let push = ["push", text(&archive), "--tag", &source];
    let promote = ["promote", &source, "--tag", &target];
    for words in [&push[..], &promote[..]] {
        let peaks = peaks(&context, words);
        assert!(
            !peaks.is_empty() && peaks.values().all(|(_, peak)| *peak < LIMIT),
            "peaks in KiB: {peaks:?}"
        );
    }
}

/// The most memory in KiB that each process of a run had, with its name.
fn peaks(context: &Smokegate, words: &[&str]) -> BTreeMap<u32, (String, u64)> {
    let mut peaks: BTreeMap<u32, (String, u64)> = BTreeMap::new();
    let running = context.start(words);
    // Each process's own high-water mark: what is missed between two looks is the last one's growth only.
    while running.stdout_so_far().is_empty() {
        let tree = ProcessTree::of(running.pid());
        if tree.members.is_empty() {
            break;
        }
        for process in tree.members {
            peaks.insert(process.pid, (process.name, process.peak_memory));
        }
        thread::sleep(Duration::from_millis(20));
    }
    running.wait(Duration::from_secs(240)).assert_code(0);
    peaks
}
