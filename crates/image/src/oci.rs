//! An image in OCI's own form: `oci-layout`, `index.json` and `blobs/` in a directory or an archive.

use oci_spec::image::{Descriptor, ImageIndex, OciLayout};

use crate::loader::Loader;
use crate::manifest::{digest_of, is_attached, parse};
use crate::names::{Candidate, choose};
use crate::store::Store;
use crate::{Error, Image, OpenOptions};

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
    let mut candidates: Vec<Candidate<&Descriptor>> = Vec::new();
    for entry in index.manifests().iter().filter(|entry| !is_attached(entry)) {
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
    Loader::new(store, options).load(chosen.image, chosen.names)
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
