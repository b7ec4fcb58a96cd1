//! Findings as SARIF 2.1.0, which code hosts show beside the source (OASIS, Static Analysis Results Interchange Format).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use smokegate_lint::{Evidence, Finding, Severity};

/// What the configuration is called among the files of the image.
const CONFIG: &str = "config.json";

/// The log of one run.
pub(crate) fn document(findings: &[Finding]) -> Value {
    let rules: BTreeSet<_> = findings.iter().map(|finding| finding.id).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|id| json!({"id": id})).collect::<Value>(),
            }},
            "originalUriBaseIds": {
                "IMAGE": {"description": {"text": "the root of the image; its configuration is config.json"}},
            },
            "results": findings.iter().map(result).collect::<Value>(),
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Hint => "note",
    };
    json!({
        "ruleId": finding.id,
        "level": level,
        "message": {"text": format!("{}. {}.", finding.message, finding.fix)},
        "locations": finding.evidence.iter().map(location).collect::<Value>(),
    })
}

fn location(evidence: &Evidence) -> Value {
    let file = evidence.path.strip_prefix('/');
    let uri = file.map_or_else(|| CONFIG.to_owned(), percent_encoded);
    let mut physical = json!({"artifactLocation": {"uri": uri, "uriBaseId": "IMAGE"}});
    if let Some(line) = evidence.line {
        physical["region"] = json!({"startLine": line});
    }
    let mut location = json!({
        "physicalLocation": physical,
        "message": {"text": evidence.text},
    });
    if file.is_none() {
        location["logicalLocations"] = json!([{"fullyQualifiedName": evidence.path}]);
    }
    location
}

/// A path as a relative reference (RFC 3986, 3.3).
fn percent_encoded(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
