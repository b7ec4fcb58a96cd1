//! The JSON Schema of the gate file, made of the types that read it.

use serde_json::{Value, json};

use super::GateFile;
use super::reader::{Definitions, Shape};

/// The schema (draft 2020-12) as it is published: `schema/smokegate.schema.json`.
pub fn json_schema() -> Value {
    let mut definitions = Definitions::new();
    GateFile::schema(&mut definitions);
    let mut schema = definitions.remove("GateFile").unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("smokegate.yaml");
    schema["$defs"] = definitions
        .into_iter()
        .map(|(name, definition)| (name.to_owned(), definition))
        .collect::<serde_json::Map<_, _>>()
        .into();
    schema
}
