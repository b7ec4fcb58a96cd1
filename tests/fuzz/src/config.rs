//! Any bytes as the config of an image with one layer.
//!
//! - No panic, no overflow, no endless recursion; what goes wrong is the image's fault.
//! - The bytes are kept as they are.
//! - What is parsed is what another reader of JSON sees: lists have as many elements, a health check has a command.

use smokegate_image::{ErrorKind, HealthcheckTest};

use super::manifest::{LAYER, archive_of_manifest, holds_together, manifest};

/// Runs the checks; panics where one fails.
pub fn check(data: &[u8]) {
    let archive = archive_of_manifest(&manifest(data), &[LAYER, data]);
    let image = match super::archive::open(&archive) {
        Ok(image) => image,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Image, "{error:?}");
            return;
        }
    };
    holds_together(&image);
    let config = &image.selected().config;
    assert_eq!(&*config.raw, data);
    // Strings that nobody asks for need not be UTF-8.
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) else {
        return;
    };
    let run = &json["config"];
    if let Some(env) = run["Env"].as_array() {
        assert_eq!(env.len(), config.env.len());
    }
    for (name, words) in [("Entrypoint", &config.entrypoint), ("Cmd", &config.cmd)] {
        if let Some(list) = run[name].as_array() {
            assert_eq!(list.len(), words.len(), "{name}");
        }
    }
    match config.healthcheck.as_ref().map(|check| &check.test) {
        Some(HealthcheckTest::Exec(words)) => assert!(!words.is_empty()),
        Some(HealthcheckTest::Shell(line)) => assert!(!line.is_empty()),
        Some(HealthcheckTest::None) | None => {}
    }
}
