//! `smokegate cache`: the layer store.

use std::path::Path;

use serde_json::json;
use smokegate_lint::IndexStore;
use smokegate_rootfs::ListedLayer;

use crate::args::{CacheCommand, CommonArgs, Format};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::report::progress::size;
use crate::settings;

pub(crate) async fn run(
    command: &CacheCommand,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let root = settings::store(common)?;
    if !root.exists() {
        printer.step(format!(
            "the layer store {} does not exist yet",
            root.display()
        ));
        return Ok(ExitStatus::Success);
    }
    let (layers, verb) = match command {
        CacheCommand::List => (smokegate_sandbox::list_store(&root)?, "in the store"),
        CacheCommand::Prune { older_than } => {
            let id_map = settings::best_id_map();
            let removed = smokegate_sandbox::prune_store(&root, &id_map, *older_than).await?;
            forget_indexes(&root)?;
            (removed, "removed")
        }
    };
    let bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
    match common.format {
        Format::Json => {
            let layers: Vec<_> = layers.iter().map(as_json).collect();
            printer.data(format!("{:#}", json!({ "layers": layers, "bytes": bytes })));
        }
        Format::Human | Format::Sarif => {
            for layer in &layers {
                let (id, entries) = (&layer.diff_id, layer.entries);
                printer.data(format!("{id}  {:>9}  {entries} entries", size(layer.bytes)));
            }
            printer.step(format!("{} layers {verb}, {}", layers.len(), size(bytes)));
        }
    }
    Ok(ExitStatus::Success)
}

/// Removes what lint keeps of layers that are no longer in the store.
fn forget_indexes(root: &Path) -> Result<(), Failure> {
    let left = smokegate_sandbox::list_store(root)?;
    let left: Vec<_> = left.into_iter().map(|layer| layer.diff_id).collect();
    let Some(indexes) = IndexStore::in_store(root) else {
        return Ok(());
    };
    indexes.retain(&left).map_err(|error| {
        let text = format!("cannot prune the indexes in `{}`: {error}", root.display());
        Failure::new(ExitStatus::Host, text)
    })
}

fn as_json(layer: &ListedLayer) -> serde_json::Value {
    json!({
        "chainId": layer.chain_id,
        "diffId": layer.diff_id,
        "bytes": layer.bytes,
        "entries": layer.entries,
        "path": layer.path,
    })
}
