//! Looking up a whole image in the store, without filling it.

use smokegate_image::ChainId;

use crate::error::Error;
use crate::fill::FillPlan;
use crate::store::{LayerStore, StoredLayer};

impl LayerStore {
    /// All layers of `plan` in its order, if every one is complete and was unpacked or verified from exactly
    /// the blobs that the plan names; counts as a use of each.
    ///
    /// # Errors
    /// Failed system calls.
    pub fn find(&self, plan: &FillPlan) -> Result<Option<Vec<StoredLayer>>, Error> {
        let mut found: Vec<StoredLayer> = Vec::with_capacity(plan.layers.len());
        for layer in &plan.layers {
            let chain_id = ChainId::new(found.last().map(|below| &below.chain_id), &layer.diff_id);
            match self.acquire(plan.policy.owners, &chain_id)? {
                Some(stored) if stored.blobs.contains(&layer.blob) => found.push(stored),
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}
