//! Media types of OCI and of Docker's schema 2, and what smokegate takes each for.

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What kind of document a media type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentType {
    Manifest,
    Index,
    Schema1,
}

pub(crate) fn document_type(media_type: &str) -> Option<DocumentType> {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(DocumentType::Manifest),
        OCI_INDEX | DOCKER_LIST => Some(DocumentType::Index),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
            Some(DocumentType::Schema1)
        }
        _ => None,
    }
}

pub(crate) fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// What a layer's media type says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerType {
    /// A tar archive, compressed as the type says.
    Tar(crate::Compression),
    /// Not to be pushed, and often not to be had (OCI image spec, layer.md, "Non-Distributable Layers").
    Foreign,
}

pub(crate) fn layer_type(media_type: &str) -> Option<LayerType> {
    use crate::Compression::{Gzip, None as Plain, Zstd};
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => LayerType::Tar(Plain),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => LayerType::Tar(Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => LayerType::Tar(Zstd),
        other
            if other.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
                || other.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar") =>
        {
            LayerType::Foreign
        }
        _ => return None,
    })
}

/// The OCI media type of a layer compressed so.
pub(crate) fn oci_layer(compression: crate::Compression) -> &'static str {
    match compression {
        crate::Compression::None => "application/vnd.oci.image.layer.v1.tar",
        crate::Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        crate::Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
