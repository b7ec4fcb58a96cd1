//! Pushes while everything fails at times that a seed decides: what must be true of the tags afterwards.
//!
//! `SMOKEGATE_FAULT_SCHEDULES` says how many (`cargo xtask faults N`), `SMOKEGATE_FAULT_SEED` the first seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use smokegate_image::{Digest, Image, subject_of};
use smokegate_registry::{
    AwsEnvironment, CredentialEnvironment, Publisher, PushError, PushOptions, PushReport,
    RegistryOptions, RegistrySettings, TagPosition,
};
use smokegate_test_support::{
    EcrManners, EcrState, FakeEcr, FakeRepository, Fault, FaultSchedule, Noise,
};

use crate::images::{chain, index_with, layer, push, push_with, referred};

/// Where every tag of every repository points.
type Tags = BTreeMap<String, String>;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Faults of this length are longer than the publisher waits.
const STALL: Duration = Duration::from_secs(4);
const IDLE_WITH_STALLS: Duration = Duration::from_secs(3);

/// What a seed decides.
struct Dice(Noise);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.0.next_word() % limit as u64).unwrap()
    }

    /// 1 to 12 layers in one or two platforms, of which some have attestations, and some are referred to.
    fn image(&mut self) -> Image {
        let blobs = 1 + self.below(12);
        let images = 1 + self.below(2);
        let mut layers = vec![Vec::new(); images];
        for number in 0..blobs {
            let size = [1, 300, 70_000, 600_000][self.below(4)] + number;
            let seed = u8::try_from(self.below(200)).unwrap();
            layers[number % images].push(layer(seed, size));
        }
        let mut image = index_with(layers, self.below(2) == 0);
        for number in 0..self.below(4) {
            // The index, one of its manifests, or another referrer.
            let known: Vec<Digest> = image.published().map(|one| one.digest.clone()).collect();
            let subject = &known[self.below(known.len())];
            image = referred(&image, subject, &format!("{number} {}", self.0.next_word()));
        }
        image
    }
}

fn publisher(fake: &FakeEcr, idle: Duration) -> Publisher {
    let settings = RegistrySettings {
        endpoint: Some(fake.url()),
        ..RegistrySettings::default()
    };
    let options = RegistryOptions {
        registries: [(FakeEcr::HOST.to_owned(), settings)].into(),
        backoff: Duration::from_millis(1),
        attempts: 9,
        idle_timeout: idle,
        ..RegistryOptions::default()
    };
    let environment = CredentialEnvironment {
        uid: u32::MAX,
        aws: AwsEnvironment {
            variables: fake.environment(),
            home: None,
        },
        ..CredentialEnvironment::default()
    };
    Publisher::new(options, &environment).unwrap()
}

/// Where a repository lists what refers to `subject`, if the registry does not.
fn list_of(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// All but those under which referrers are listed.
fn tags(state: &EcrState) -> Tags {
    let repositories = state.repositories.iter();
    let tags = repositories.flat_map(|(name, repository)| {
        let tags = repository.tags.iter();
        let tags = tags.filter(|(tag, _)| !tag.starts_with("sha256-"));
        tags.map(move |(tag, digest)| (format!("{}/{name}:{tag}", FakeEcr::HOST), digest.clone()))
    });
    tags.collect()
}

/// Whether a reader gets all bytes behind a digest, as they should be.
fn is_whole(repository: &FakeRepository, digest: &str) -> bool {
    let is = |bytes: &[u8]| Digest::sha256(bytes).to_string() == digest;
    if let Some(blob) = repository.blobs.get(digest) {
        return is(blob);
    }
    let Some((_, bytes)) = repository.manifests.get(digest) else {
        return false;
    };
    let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let lists = ["manifests", "layers"].map(|list| json[list].as_array().cloned());
    let children = lists.into_iter().flatten().flatten();
    let mut children = children.chain(json.get("config").cloned());
    is(bytes) && children.all(|child| is_whole(repository, child["digest"].as_str().unwrap()))
}

/// What goes wrong, and whether all of it passes.
fn faults(dice: &mut Dice, stalls: bool, names: &[String]) -> (FaultSchedule, bool) {
    let status = |status, retry_after| Fault::Status {
        status,
        retry_after,
    };
    let mut kinds = vec![
        Fault::Reset,
        Fault::ResetInBody,
        Fault::LostAnswer,
        Fault::Truncated,
        Fault::LyingDigest,
        Fault::EndTokens,
        status(429, Some(0)),
        status(429, None),
        status(500, None),
        status(503, None),
    ];
    if stalls {
        kinds.push(Fault::Stall(STALL));
    }
    let rate = [3, 10, 30][dice.below(3)];
    let schedule = FaultSchedule::passing(dice.0.next_word(), rate, 2, kinds);
    if dice.below(2) == 0 {
        return (schedule, true);
    }
    let tag = names[dice.below(names.len())].rsplit(':').next().unwrap();
    let lasting = [
        Fault::Refuse(403),
        Fault::Reset,
        Fault::LostAnswer,
        status(500, None),
    ];
    let fault = lasting[dice.below(4)].clone();
    let allowed = u32::try_from(dice.below(3)).unwrap();
    let at_tag = format!("/manifests/{tag}");
    let schedule = match dice.below(6) {
        0 => schedule.and_lasting("POST", "/blobs/uploads/", allowed, fault),
        1 => schedule.and_lasting("PUT", "/blobs/uploads/", allowed, fault),
        2 => schedule.and_lasting("PUT", "/manifests/sha256", allowed, fault),
        3 => schedule.and_lasting("GET", &at_tag, 1 + allowed, fault),
        // Where referrers are listed, if the registry does not do it.
        4 => schedule.and_lasting("PUT", "/manifests/sha256-", allowed, fault),
        _ => schedule.and_lasting("PUT", &at_tag, allowed.min(1), fault),
    };
    (schedule, false)
}

async fn one_schedule(seed: u64) {
    let mut dice = Dice(Noise::new(seed));
    let fake = FakeEcr::start(EcrManners {
        plain_text_refusals: dice.below(2) == 0,
        mounts: dice.below(2) == 0,
        lists_referrers: dice.below(2) == 0,
        ..EcrManners::default()
    });
    fake.create("a");
    fake.create("b");
    // A stall takes its time, so that few schedules have them.
    let stalls = seed % 50 == 49;
    let idle = if stalls {
        IDLE_WITH_STALLS
    } else {
        Duration::from_secs(30)
    };
    let publisher = publisher(&fake, idle);
    let all = ["a:1.2.3", "a:latest", "b:1", "b:main"];
    let all = all.map(|name| format!("{}/{name}", FakeEcr::HOST));
    let names: Vec<String> = all[..1 + dice.below(4)].to_vec();
    let (old, new) = (dice.image(), dice.image());
    let existing = names.iter().filter(|_| dice.below(2) == 0);
    let existing: Vec<String> = existing.cloned().collect();
    if !existing.is_empty() {
        push(&publisher, &old, &existing).await.unwrap();
    }
    // Others have attached something too.
    let lists = list_foreign(&mut fake.state(), &new);
    let before = tags(&fake.state());
    let (schedule, transient_only) = faults(&mut dice, stalls, &names);
    fake.set_faults(schedule);
    let options = PushOptions {
        rollback: dice.below(4) != 0,
        ..PushOptions::default()
    };
    let result = push_with(&publisher, &new, &names, &options).await;
    fake.set_faults(FaultSchedule::default());
    check(seed, &fake.state(), &before, &new, &names, &result);
    check_referrers(seed, &mut fake.state(), &lists, &before, &new);
    if transient_only && let Err(error) = &result {
        panic!("seed {seed}: all of it passes: {}", chain(error));
    }
}

fn check(
    seed: u64,
    state: &EcrState,
    before: &Tags,
    new: &Image,
    names: &[String],
    result: &Result<PushReport, PushError>,
) {
    let said = match result {
        Ok(_) => "success".to_owned(),
        Err(error) => format!("{} {:?}", chain(error), error.tags),
    };
    assert_eq!(state.premature, Vec::<String>::new(), "seed {seed}: {said}");
    let after = tags(state);
    let ours = new.digest().to_string();
    for (name, digest) in &after {
        let path = name.trim_start_matches(FakeEcr::HOST);
        let repository = path[1..].split(':').next().unwrap();
        assert!(
            is_whole(&state.repositories[repository], digest),
            "seed {seed}: {name} is not whole: {said}"
        );
        let may_be_ours = names.contains(name) && *digest == ours;
        assert!(
            may_be_ours || before.get(name) == Some(digest),
            "seed {seed}: {name} is foreign: {said}"
        );
    }
    let Err(error) = result else {
        for name in names {
            assert_eq!(after.get(name), Some(&ours), "seed {seed}: {name}");
        }
        return;
    };
    let position = |at: &Tags, name: &str| match at.get(name) {
        Some(digest) => TagPosition::At(digest.parse().unwrap()),
        None => TagPosition::Absent,
    };
    for tag in &error.tags {
        let name = tag.target.to_string();
        if tag.was != TagPosition::Unknown {
            assert_eq!(tag.was, position(before, &name), "seed {seed}: {said}");
        }
        if tag.now != TagPosition::Unknown {
            assert_eq!(tag.now, position(&after, &name), "seed {seed}: {said}");
        }
    }
    if !error.tags_moved() {
        assert_eq!(&after, before, "seed {seed}: {said}");
    }
}

/// The list of a repository, as it is.
fn list(repository: &FakeRepository, subject: &Digest) -> Option<Value> {
    let digest = repository.tags.get(&list_of(subject))?;
    Some(serde_json::from_slice(&repository.manifests[digest].1).unwrap())
}

/// Adds to the list of every subject what somebody else attached; the lists that are there now.
fn list_foreign(state: &mut EcrState, image: &Image) -> Vec<(String, Digest, Value)> {
    if state.manners.lists_referrers {
        return Vec::new();
    }
    let mut lists = Vec::new();
    for name in ["a", "b"] {
        let repository = state.repository(name);
        for subject in image.published().filter_map(|one| subject_of(&one.bytes)) {
            let mut index = list(repository, &subject).unwrap_or_else(
                || serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
            );
            // Registries take no list of what they have not.
            let foreign = format!("{{\"of\":\"{subject}\"}}").into_bytes();
            let digest = Digest::sha256(&foreign).to_string();
            let entry = serde_json::json!({"mediaType": "a/b", "digest": digest, "size": foreign.len(), "by": "others"});
            repository
                .manifests
                .insert(digest, ("a/b".to_owned(), foreign));
            let entries = index["manifests"].as_array_mut().unwrap();
            if !entries.contains(&entry) {
                entries.push(entry);
            }
            index["annotations"] = serde_json::json!({"of": "others"});
            let bytes = serde_json::to_vec(&index).unwrap();
            let digest = Digest::sha256(&bytes).to_string();
            repository.tags.insert(list_of(&subject), digest.clone());
            repository
                .manifests
                .insert(digest, (INDEX.to_owned(), bytes));
            lists.push((name.to_owned(), subject, index));
        }
    }
    lists
}

/// No list has lost an entry, and a tag that moved has all that refers to its image, whole and listed.
fn check_referrers(
    seed: u64,
    state: &mut EcrState,
    lists: &[(String, Digest, Value)],
    before: &Tags,
    new: &Image,
) {
    for (name, subject, was) in lists {
        let is = list(state.repository(name), subject).unwrap();
        let entries = |list: &Value| list["manifests"].as_array().unwrap().clone();
        let now = entries(&is);
        let lost: Vec<_> = entries(was)
            .into_iter()
            .filter(|one| !now.contains(one))
            .collect();
        assert!(
            lost.is_empty(),
            "seed {seed}: {name}@{subject} lost {lost:?}"
        );
        assert_eq!(is["annotations"], was["annotations"], "seed {seed}");
        let ours = |entry: &Value| {
            let mut referrers = new.referrers().iter();
            referrers.any(|one| entry["digest"] == one.digest.to_string())
        };
        for entry in now.iter().filter(|entry| !entries(was).contains(entry)) {
            assert!(ours(entry), "seed {seed}: {name}@{subject} lists {entry}");
            let digest = entry["digest"].as_str().unwrap();
            assert!(
                is_whole(state.repository(name), digest),
                "seed {seed}: {name} lists {digest}, which is not whole"
            );
        }
    }
    let ours = new.digest().to_string();
    let lists_referrers = state.manners.lists_referrers;
    for (tag, digest) in tags(state) {
        if digest != ours || before.get(&tag) == Some(&digest) {
            continue;
        }
        let path = tag
            .trim_start_matches(FakeEcr::HOST)
            .trim_start_matches('/');
        let repository = state.repository(path.split(':').next().unwrap());
        for referrer in new.referrers() {
            let digest = referrer.digest.to_string();
            assert!(
                is_whole(repository, &digest),
                "seed {seed}: {tag}: {digest} is not whole"
            );
            let subject = subject_of(&referrer.bytes).unwrap();
            let listed = lists_referrers
                || list(repository, &subject).is_some_and(|list| {
                    let mut entries = list["manifests"].as_array().unwrap().iter();
                    entries.any(|entry| entry["digest"] == digest)
                });
            assert!(listed, "seed {seed}: {tag}: {digest} is not listed");
        }
    }
}

#[test]
fn any_schedule_of_faults_leaves_no_tag_astray() {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
        Err(_) => default,
    };
    let schedules: u64 = number("SMOKEGATE_FAULT_SCHEDULES", 60);
    let first: u64 = number("SMOKEGATE_FAULT_SEED", 0);
    let next = AtomicU64::new(first);
    // A panic names its seed, and ends the test when the other threads have ended.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + schedules {
                        return;
                    }
                    runtime.block_on(one_schedule(seed));
                }
            });
        }
    });
}
