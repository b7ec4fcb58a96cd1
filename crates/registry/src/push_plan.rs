//! The order of a push: a pure function of the image, the targets and what the destinations already have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use smokegate_image::{Digest, Image};

use crate::{Destination, DestinationState, RemoteState, Target};

/// What is done to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The blob is there.
    KeepBlob {
        /// Which.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// The blob is sent.
    UploadBlob {
        /// Which.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// The registry is asked to take the blob from another of its repositories; if it does not, it is sent.
    MountBlob {
        /// Which.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The repository that has it by then.
        from: String,
    },
    /// The manifest or index is there.
    KeepManifest {
        /// Which.
        digest: Digest,
    },
    /// The manifest or index is sent by its digest and read back.
    PutManifest {
        /// Which.
        digest: Digest,
    },
    /// The tag points to the image already.
    KeepTag {
        /// Which.
        tag: String,
    },
    /// The tag is made to point to the image and read back.
    MoveTag {
        /// Which.
        tag: String,
        /// What it points to before.
        from: Option<Digest>,
    },
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it is done.
    pub destination: Destination,
    /// What is done.
    pub action: Action,
}

/// The steps of a push in their order: blobs, then manifests with children before parents, then tags.
///
/// Steps for blobs may run side by side, except that mounts come after all uploads. No tag moves before all
/// that goes before is done everywhere. `Display` is what `--dry-run` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPlan {
    digest: Digest,
    targets: Vec<Target>,
    steps: Vec<Step>,
}

impl PushPlan {
    /// What the tags will point to.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The targets in the order in which their tags move, each once.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether everything is where it should be.
    pub fn is_done(&self) -> bool {
        self.steps.iter().all(|step| {
            matches!(
                step.action,
                Action::KeepBlob { .. } | Action::KeepManifest { .. } | Action::KeepTag { .. }
            )
        })
    }
}

/// Plans what makes every target point to `image`, given what is there. A repository
/// that is no target may have an entry in `state`: blobs can be mounted from it.
pub fn plan(image: &Image, targets: &[Target], state: &RemoteState) -> PushPlan {
    let targets = in_order(targets);
    let destinations: Vec<&Destination> = each_once(targets.iter().map(Target::destination));
    let nothing = DestinationState::default();
    let state_of =
        |destination: &Destination| state.destinations.get(destination).unwrap_or(&nothing);
    let mut steps = Vec::new();
    let mut step = |destination: &Destination, action: Action| {
        steps.push(Step {
            destination: destination.clone(),
            action,
        });
    };

    let mut blobs: Vec<_> = image
        .blobs()
        .iter()
        .map(|blob| (blob.digest(), blob.size()))
        .collect();
    // The largest take longest, so they are started first.
    blobs.sort_by_key(|(digest, size)| (Reverse(*size), *digest));
    blobs.dedup_by_key(|(digest, _)| *digest);
    // Who of a registry has a blob, or will have it when the uploads are through.
    let mut holders: BTreeMap<(&str, &Digest), &str> = BTreeMap::new();
    for (destination, there) in &state.destinations {
        let Destination::Repository {
            registry,
            repository,
        } = destination
        else {
            continue;
        };
        for (digest, _) in &blobs {
            if there.blobs.contains(*digest) {
                holders
                    .entry((registry.as_str(), *digest))
                    .or_insert(repository.as_str());
            }
        }
    }
    let mut kept = Vec::new();
    let mut mounts = Vec::new();
    for (digest, size) in &blobs {
        for destination in &destinations {
            let (digest, size) = ((*digest).clone(), *size);
            if state_of(destination).blobs.contains(&digest) {
                kept.push((*destination, Action::KeepBlob { digest, size }));
                continue;
            }
            if let Destination::Repository {
                registry,
                repository,
            } = destination
            {
                let blob = image.blobs().iter().find(|blob| *blob.digest() == digest);
                let Some(blob) = blob else { continue };
                let key = (registry.as_str(), blob.digest());
                if let Some(holder) = holders.get(&key) {
                    let from = (*holder).to_owned();
                    mounts.push((*destination, Action::MountBlob { digest, size, from }));
                    continue;
                }
                holders.insert(key, repository);
            }
            step(destination, Action::UploadBlob { digest, size });
        }
    }
    for (destination, action) in mounts.into_iter().chain(kept) {
        step(destination, action);
    }

    for document in image.published() {
        for destination in &destinations {
            let digest = document.digest.clone();
            let there = state_of(destination).documents.contains(&digest);
            let action = if there {
                Action::KeepManifest { digest }
            } else {
                Action::PutManifest { digest }
            };
            step(destination, action);
        }
    }

    for target in &targets {
        let tag = target.tag().to_owned();
        let from = state_of(target.destination()).tags.get(&tag).cloned();
        let there = from.as_ref() == Some(image.digest());
        let action = if there {
            Action::KeepTag { tag }
        } else {
            Action::MoveTag { tag, from }
        };
        step(target.destination(), action);
    }
    PushPlan {
        digest: image.digest().clone(),
        targets,
        steps,
    }
}

/// Tags that name one build first, moving ones after them, `latest` at the very end; else as given.
fn in_order(targets: &[Target]) -> Vec<Target> {
    let mut ordered: Vec<Target> = each_once(targets.iter()).into_iter().cloned().collect();
    ordered.sort_by_key(|target| mobility(target.tag()));
    ordered
}

/// How often a tag of this form is moved.
fn mobility(tag: &str) -> u8 {
    if tag == "latest" {
        return 5;
    }
    if tag.starts_with("latest") {
        return 4;
    }
    let bare = tag.strip_prefix('v').unwrap_or(tag);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let core = bare.split(['-', '+', '_']).next().unwrap_or_default();
    let hexadecimal =
        |text: &str| text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // A commit, a date or a build number is never given twice.
    if tag.split(['-', '.', '_']).any(hexadecimal) {
        return 0;
    }
    let components = core.split('.').filter(|part| digits(part)).count();
    match (core.split('.').all(digits), components) {
        (true, 3..) => 0,
        (true, 2) => 1,
        (true, 1) => 2,
        _ => 3,
    }
}

fn each_once<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(*value)).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = &self.destination;
        match &self.action {
            Action::KeepBlob { digest, size } => {
                write!(f, "present   {at} blob {digest} ({size} bytes)")
            }
            Action::UploadBlob { digest, size } => {
                write!(f, "upload    {at} blob {digest} ({size} bytes)")
            }
            Action::MountBlob { digest, size, from } => {
                write!(f, "mount     {at} blob {digest} ({size} bytes) from {from}")
            }
            Action::KeepManifest { digest } => write!(f, "present   {at} manifest {digest}"),
            Action::PutManifest { digest } => write!(f, "put       {at} manifest {digest}"),
            Action::KeepTag { tag } => write!(f, "unchanged {at}:{tag}"),
            Action::MoveTag {
                tag,
                from: Some(from),
            } => write!(f, "move      {at}:{tag} from {from}"),
            Action::MoveTag { tag, from: None } => write!(f, "create    {at}:{tag}"),
        }
    }
}

impl fmt::Display for PushPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "push {}", self.digest)?;
        self.steps
            .iter()
            .try_for_each(|step| writeln!(f, "  {step}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smokegate_image::{
        Blob, Content, Document, DocumentKind, ImageConfig, ImageParts, PlatformImage,
    };

    use super::*;

    /// An index of manifests, each with a config and layers; low numbers make layers shared.
    fn image(manifests: &[Vec<u8>]) -> Image {
        let blob_of = |name: &str| {
            let bytes = name.as_bytes();
            let content = Content::Bytes(bytes.into());
            Blob::new(
                Digest::sha256(bytes),
                bytes.len() as u64,
                "layer".to_owned(),
                content,
            )
        };
        let document = |children: Vec<Digest>, kind| {
            let bytes = format!("{children:?}").into_bytes();
            let digest = Digest::sha256(&bytes);
            let media_type = "manifest".to_owned();
            Document {
                digest,
                media_type,
                bytes: bytes.into(),
                kind,
                platform: None,
                children,
            }
        };
        let mut blobs: Vec<Blob> = Vec::new();
        let mut documents: Vec<Document> = Vec::new();
        for (number, layers) in manifests.iter().enumerate() {
            let mut names = vec![format!("config {number}")];
            names.extend(layers.iter().map(|layer| format!("layer {layer}")));
            let mine: Vec<Blob> = names.iter().map(|name| blob_of(name)).collect();
            documents.push(document(
                mine.iter().map(|blob| blob.digest().clone()).collect(),
                DocumentKind::Image,
            ));
            for blob in mine {
                if blobs.iter().all(|known| known.digest() != blob.digest()) {
                    blobs.push(blob);
                }
            }
        }
        let platform = PlatformImage {
            manifest: documents[0].digest.clone(),
            platform: "linux/amd64".to_owned(),
            config_digest: blobs[0].digest().clone(),
            config: ImageConfig::default(),
            layers: Vec::new(),
        };
        let children = documents
            .iter()
            .map(|document| document.digest.clone())
            .collect();
        documents.push(document(children, DocumentKind::Index));
        Image::new(ImageParts {
            documents,
            referrers: Vec::new(),
            blobs,
            platforms: vec![platform],
            selected: 0,
            names: Vec::new(),
            synthesized: false,
            notes: Vec::new(),
        })
    }

    fn targets(names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// What a destination has once a step is done; panics at a step that may not be done yet.
    fn apply(state: &mut RemoteState, plan: &PushPlan, image: &Image) {
        let mut written = RemoteState::clone(state);
        for step in plan.steps() {
            if let Action::MountBlob { digest, from, .. } = &step.action {
                let Destination::Repository { registry, .. } = &step.destination else {
                    panic!("mount into {}", step.destination)
                };
                let source = Destination::Repository {
                    registry: registry.clone(),
                    repository: from.clone(),
                };
                assert!(
                    written.destinations[&source].blobs.contains(digest),
                    "mounted too early"
                );
            }
            let at = written
                .destinations
                .entry(step.destination.clone())
                .or_default();
            match &step.action {
                Action::UploadBlob { digest, .. } | Action::MountBlob { digest, .. } => {
                    assert!(at.blobs.insert(digest.clone()), "sent twice: {step}");
                }
                Action::KeepBlob { digest, .. } => assert!(at.blobs.contains(digest)),
                Action::KeepManifest { digest } => assert!(at.documents.contains(digest)),
                Action::PutManifest { digest } => {
                    let document = image
                        .documents()
                        .iter()
                        .find(|document| document.digest == *digest);
                    for child in &document.unwrap().children {
                        assert!(
                            at.blobs.contains(child) || at.documents.contains(child),
                            "{step} comes before {child}"
                        );
                    }
                    at.documents.insert(digest.clone());
                }
                Action::KeepTag { tag } => assert_eq!(&at.tags[tag], image.digest()),
                Action::MoveTag { tag, from } => {
                    assert_eq!(at.tags.get(tag), from.as_ref());
                    assert!(
                        at.documents.contains(image.digest()),
                        "{step} points to nothing"
                    );
                    at.tags.insert(tag.clone(), image.digest().clone());
                }
            }
        }
        *state = written;
    }

    const NAMES: [&str; 8] = [
        "r.example/a:latest",
        "r.example/a:1.2.3",
        "r.example/b:1.2.3",
        "r.example/b:main",
        "s.example/a:1",
        "oci:dir:v1",
        "oci:dir:latest",
        "oci-archive:x.tar:v1",
    ];

    proptest! {
        #[test]
        fn any_plan_is_in_order_and_done_once(
            manifests in prop::collection::vec(prop::collection::vec(0_u8..6, 0..5), 1..4),
            chosen in prop::sample::subsequence(NAMES.to_vec(), 1..=NAMES.len()),
            before in prop::collection::vec(any::<u32>(), NAMES.len()),
        ) {
            let image = image(&manifests);
            let targets = targets(&chosen);
            let mut state = RemoteState::default();
            for (target, bits) in targets.iter().zip(&before) {
                let at = state.destinations.entry(target.destination().clone()).or_default();
                let blobs = image.blobs().iter().enumerate();
                at.blobs.extend(blobs.filter(|(n, _)| bits >> (n % 32) & 1 == 1).map(|(_, b)| b.digest().clone()));
                if bits % 5 == 0 {
                    at.tags.insert(target.tag().to_owned(), Digest::sha256(b"old"));
                }
            }
            let planned = plan(&image, &targets, &state);
            let first_tag = planned.steps().len() - targets.len();
            for (index, step) in planned.steps().iter().enumerate() {
                let is_tag = matches!(step.action, Action::KeepTag { .. } | Action::MoveTag { .. });
                prop_assert_eq!(is_tag, index >= first_tag);
            }
            if let Some(first) = planned.targets().iter().position(|target| target.tag() == "latest") {
                prop_assert!(planned.targets()[first..].iter().all(|target| target.tag() == "latest"));
            }
            apply(&mut state, &planned, &image);
            let again = plan(&image, &targets, &state);
            prop_assert!(again.is_done(), "{again}");
            prop_assert_eq!(again.steps().len(), planned.steps().len());
        }
    }

    #[test]
    fn each_blob_travels_once_per_registry() {
        let image = image(&[vec![1, 2]]);
        let targets = targets(&["r.example/a:1", "r.example/b:1", "s.example/a:1"]);
        let plan = plan(&image, &targets, &RemoteState::default());
        let count = |wanted: fn(&Action) -> bool| {
            plan.steps()
                .iter()
                .filter(|step| wanted(&step.action))
                .count()
        };
        assert_eq!(
            count(|action| matches!(action, Action::UploadBlob { .. })),
            6
        );
        assert_eq!(
            count(|action| matches!(action, Action::MountBlob { .. })),
            3
        );
        assert!(plan.to_string().contains("create    r.example/b:1"));
    }

    #[test]
    fn tags_from_fixed_to_moving() {
        let given = [
            "latest",
            "main",
            "1",
            "latest-alpine",
            "1.2",
            "1.2.3",
            "v2.0.0-rc1",
            "sha-1a2b3c4",
        ];
        let names: Vec<String> = given
            .iter()
            .map(|tag| format!("r.example/a:{tag}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ordered = in_order(&targets(&names));
        let tags: Vec<&str> = ordered.iter().map(Target::tag).collect();
        let expected = [
            "1.2.3",
            "v2.0.0-rc1",
            "sha-1a2b3c4",
            "1.2",
            "1",
            "main",
            "latest-alpine",
            "latest",
        ];
        assert_eq!(tags, expected);
    }
}
