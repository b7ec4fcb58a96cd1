//! How much an image may make us read, write and keep.

/// Limits on what a source may cost. Crosses to the process that unpacks layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// One manifest or index. Registries refuse more than 4 MiB (distribution spec, "Pushing Manifests").
    pub manifest_bytes: u64,
    /// One image config.
    pub config_bytes: u64,
    /// All documents and configs together: they are kept in memory.
    pub documents_bytes: u64,
    /// Indexes within indexes.
    pub index_depth: usize,
    /// Members of an archive: their names are kept in memory.
    pub members: usize,
    /// An archive after decompression, when it must be spooled.
    pub spool_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Apparent size of one file in a layer; a sparse file counts its holes.
    pub file_bytes: u64,
    /// One layer after decompression.
    pub layer_bytes: u64,
    /// A layer's decompressed size over its compressed one, looked at beyond [`Limits::ratio_grace`].
    pub layer_ratio: u64,
    /// Decompressed bytes any layer may have, whatever its ratio: a sparse file compresses 30 000-fold in zstd.
    pub ratio_grace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Self {
            manifest_bytes: 4 * MIB,
            config_bytes: 16 * MIB,
            documents_bytes: 32 * MIB,
            index_depth: 8,
            members: 200_000,
            spool_bytes: 256 * GIB,
            layer_entries: 4_000_000,
            file_bytes: 128 * GIB,
            layer_bytes: 128 * GIB,
            // Deflate cannot exceed 1032, so that this stops zstd bombs only; gzip ones meet `layer_bytes`.
            layer_ratio: 2_000,
            ratio_grace: 4 * GIB,
        }
    }
}

impl Limits {
    /// The most bytes that a layer stored in `stored` bytes may decompress to.
    pub(crate) fn layer_maximum(&self, stored: u64) -> u64 {
        stored
            .saturating_mul(self.layer_ratio)
            .max(self.ratio_grace)
            .min(self.layer_bytes)
    }
}
