//! An image in OCI's own form: `oci-layout`, `index.json` and `blobs/` in a directory or an archive.

use oci_spec::image::{Descriptor, ImageIndex, OciLayout};

use crate::error::BlobName;
use crate::loader::{Loader, Referrer};
use crate::manifest::{digest_of, is_artifact, is_attached, parse, subject_of};
use crate::media_type::{DocumentType, document_type};
use crate::names::{Candidate, choose};
use crate::store::{Store, read_all};
use crate::{Digest, Error, Image, OpenOptions};

/// Annotations under which tools keep an image's name (OCI image spec, annotations.md; containerd).
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Opens the image called `tag`, or the only one. The entries of `index.json` are the images: it is the list
/// of what a layout holds, never itself what is pushed.
pub(crate) fn open(
    store: &dyn Store,
    tag: Option<&str>,
    options: &OpenOptions,
) -> Result<Image, Error> {
    let limit = options.limits.manifest_bytes;
    let layout: OciLayout = parse(&store.text("oci-layout", limit)?, "`oci-layout`")?;
    let version = layout.image_layout_version();
    let refused = |what: &str, problem| {
        Err(Error::Document {
            what: what.to_owned(),
            problem,
        })
    };
    if !version.starts_with("1.") {
        return refused("`oci-layout`", format!("its version is `{version}`, not 1"));
    }
    let index: ImageIndex = parse(&store.text("index.json", limit)?, "`index.json`")?;
    if index.schema_version() != 2 {
        return refused("`index.json`", "its schemaVersion is not 2".to_owned());
    }
    let entries = index.manifests();
    let mut candidates: Vec<Candidate<&Descriptor>> = Vec::new();
    let mut referrers = Vec::new();
    let mut budget = options.limits.documents_bytes;
    for entry in entries.iter().filter(|entry| !is_attached(entry)) {
        // What is alone refers to nothing that is here.
        if entries.len() > 1
            && let Some((subject, is_artifact)) = subject(store, entry, &mut budget, options)?
            && (is_artifact || names(entry).is_empty())
        {
            referrers.push(Referrer {
                subject,
                descriptor: entry,
            });
            continue;
        }
        let digest = digest_of(entry)?.to_string();
        let names = names(entry);
        // `docker save` of two tags lists one image twice.
        if let Some(same) = candidates.iter_mut().find(|one| one.digest == digest) {
            let new = names.into_iter().filter(|name| !same.names.contains(name));
            same.names.extend(new.collect::<Vec<_>>());
            continue;
        }
        let fallback = match entry.platform() {
            Some(platform) => format!("{digest}@{}/{}", platform.os(), platform.architecture()),
            None => digest.clone(),
        };
        candidates.push(Candidate {
            image: entry,
            names,
            digest,
            fallback,
        });
    }
    if candidates.is_empty() {
        return refused("`index.json`", "it lists no image".to_owned());
    }
    let chosen = choose(candidates, tag)?;
    Loader::new(store, options).load(chosen.image, chosen.names, referrers)
}

/// What an entry refers to, as signatures, SBOMs and receipts do, and whether it is one of these rather than an
/// image. Looked at only; what is wrong with it is found when it is loaded.
fn subject(
    store: &dyn Store,
    entry: &Descriptor,
    budget: &mut u64,
    options: &OpenOptions,
) -> Result<Option<(Digest, bool)>, Error> {
    let size = entry.size();
    let kind = document_type(entry.media_type().as_ref());
    let is_known = matches!(kind, Some(DocumentType::Manifest | DocumentType::Index));
    if !is_known || size > options.limits.manifest_bytes || size > *budget {
        return Ok(None);
    }
    *budget -= size;
    let blob = BlobName {
        digest: digest_of(entry)?,
        role: "manifest".to_owned(),
    };
    let Ok(range) = store.blob(&blob, size) else {
        return Ok(None);
    };
    let bytes = read_all(&range, &blob.to_string(), options.limits.manifest_bytes)?;
    Ok(subject_of(&bytes).map(|subject| (subject, is_artifact(&bytes))))
}

fn names(entry: &Descriptor) -> Vec<String> {
    let Some(annotations) = entry.annotations() else {
        return Vec::new();
    };
    let found = NAME_ANNOTATIONS
        .iter()
        .filter_map(|key| annotations.get(*key));
    let mut names: Vec<String> = found.filter(|name| !name.is_empty()).cloned().collect();
    // Beside the full name containerd writes its tag alone, which says nothing more.
    if let [full, tag] = names.as_slice()
        && full.ends_with(&format!(":{tag}"))
    {
        names.pop();
    }
    names
}
