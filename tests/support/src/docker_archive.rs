//! What `docker save` writes, in both of its forms.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;
use smokegate_image::Digest;

use crate::BuiltImage;
use crate::file_tree::{Content, FileTree};
use crate::image_builder::encode;
use crate::oci_content::blob_name;

impl BuiltImage {
    /// Writes what Docker saved before version 25: plain tars as `ID/layer.tar` beside `VERSION` and `json`,
    /// `repositories`, and a link in place of a layer that occurs a second time.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_docker_archive_legacy(&self, file: &Path, repo_tag: Option<&str>) {
        let mut files = FileTree::default();
        let mut first_with: HashMap<&Digest, String> = HashMap::new();
        let mut parent: Option<String> = None;
        let mut names = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let below = parent.clone().unwrap_or_default();
            let seed = format!("{index} {below} {}", layer.diff_id);
            let id = Digest::sha256(seed.as_bytes()).hex().to_owned();
            let mut json = json!({"id": id, "created": "2020-01-01T00:00:00Z", "os": "linux"});
            if let Some(parent) = parent {
                json["parent"] = json!(parent);
            }
            files.add_bytes(format!("{id}/VERSION"), "1.0");
            files.add_bytes(format!("{id}/json"), encode(&json));
            let content = match first_with.get(&layer.diff_id) {
                Some(first) => Content::Symlink(format!("../{first}/layer.tar")),
                None => Content::Decoded(layer.file.clone(), layer.compression),
            };
            files.add(format!("{id}/layer.tar"), content);
            names.push(format!("{id}/layer.tar"));
            first_with
                .entry(&layer.diff_id)
                .or_insert_with(|| id.clone());
            parent = Some(id);
        }
        let config = format!("{}.json", self.config_digest().hex());
        files.add_bytes(config.clone(), self.config.clone());
        add_manifest(&mut files, &config, &names, repo_tag, parent.as_deref());
        write(&files, file);
    }

    /// Writes what Docker saves since version 25: an OCI layout with a `manifest.json` that names its blobs.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_docker_archive(&self, file: &Path, repo_tag: Option<&str>) {
        let tag = repo_tag.map(|name| name.rsplit_once(':').map_or("latest", |(_, tag)| tag));
        let mut files = self.oci().tagged(tag).files();
        let names: Vec<_> = self
            .layers
            .iter()
            .map(|layer| blob_name(&layer.digest))
            .collect();
        let top = self.layers.last().map(|layer| layer.digest.hex());
        add_manifest(
            &mut files,
            &blob_name(&self.config_digest()),
            &names,
            repo_tag,
            top,
        );
        write(&files, file);
    }
}

fn add_manifest(
    files: &mut FileTree,
    config: &str,
    layers: &[String],
    repo_tag: Option<&str>,
    top: Option<&str>,
) {
    let tags: Vec<_> = repo_tag.into_iter().collect();
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    files.add_bytes("manifest.json", encode(&manifest));
    if let (Some((repository, tag)), Some(top)) = (repo_tag.and_then(|t| t.rsplit_once(':')), top) {
        files.add_bytes("repositories", encode(&json!({ repository: {tag: top} })));
    }
}

fn write(files: &FileTree, file: &Path) {
    files
        .write_tar(file)
        .unwrap_or_else(|error| panic!("writing archive `{}`: {error}", file.display()));
}
