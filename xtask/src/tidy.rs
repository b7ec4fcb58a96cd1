//! Rules of this repository that no lint knows: who depends on whom, and what a source file looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::workspace::{metadata, root};

/// Which members a member may depend on. `smokegate-gate` and `smokegate-registry` never see each other.
const ALLOWED: [(&str, &[&str]); 9] = [
    (
        "smokegate",
        &[
            "smokegate-gate",
            "smokegate-image",
            "smokegate-lint",
            "smokegate-registry",
            "smokegate-rootfs",
            "smokegate-sandbox",
        ],
    ),
    ("smokegate-gate", &["smokegate-sandbox", "smokegate-image"]),
    (
        "smokegate-sandbox",
        &["smokegate-rootfs", "smokegate-image"],
    ),
    ("smokegate-lint", &["smokegate-rootfs", "smokegate-image"]),
    ("smokegate-rootfs", &["smokegate-image"]),
    ("smokegate-registry", &["smokegate-image"]),
    ("smokegate-image", &[]),
    ("smokegate-test-support", &["smokegate-image"]),
    ("xtask", &[]),
];

/// Crates that one member alone may depend on, with the reason in ARCHITECTURE.md.
const RESERVED: [(&str, &str); 2] = [
    ("libcontainer", "smokegate-sandbox"),
    ("reqwest", "smokegate-registry"),
];

#[test]
fn members_depend_only_downwards() {
    let metadata = metadata(&["--no-deps"]).unwrap();
    let allowed = BTreeMap::from(ALLOWED);
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let below = allowed
            .get(name)
            .unwrap_or_else(|| panic!("`{name}` is not in ALLOWED"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let test_only = dependency["kind"] == "dev" && on == "smokegate-test-support";
            let member = allowed.contains_key(on);
            assert!(
                !member || test_only || below.contains(&on),
                "`{name}` depends on `{on}`"
            );
            let reserved = RESERVED.iter().find(|(reserved, _)| *reserved == on);
            if let Some((_, owner)) = reserved {
                assert_eq!(name, *owner, "only `{owner}` may depend on `{on}`");
            }
        }
    }
}

#[test]
fn xtask_links_no_system_library() {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = metadata(&["--filter-platform", &host]).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (node["id"].as_str().unwrap().to_owned(), node))
        .collect();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (package["id"].as_str().unwrap().to_owned(), package))
        .collect();
    let own = packages
        .values()
        .find(|package| package["name"] == "xtask")
        .unwrap();
    let mut waiting = vec![own["id"].as_str().unwrap().to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        assert!(
            packages[&id]["links"].is_null(),
            "xtask links {}",
            packages[&id]["links"]
        );
        for dependency in list(&nodes[&id]["dependencies"]) {
            let dependency = dependency.as_str().unwrap().to_owned();
            if seen.insert(dependency.clone()) {
                waiting.push(dependency);
            }
        }
    }
    assert!(!seen.is_empty(), "the walk went nowhere");
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "{}: does not begin with `//!`",
            path.display()
        );
    }
}

#[test]
fn no_source_file_is_a_monster() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(
            lines <= 900,
            "{}: {lines} lines; which noun wants out?",
            path.display()
        );
    }
}

#[test]
fn no_module_is_a_drawer() {
    const DRAWERS: [&str; 7] = [
        "util", "utils", "helpers", "common", "misc", "shared", "types",
    ];
    for (path, _) in sources() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let dir = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .unwrap();
        let named = if stem == "mod" { dir } else { stem };
        assert!(
            !DRAWERS.contains(&named),
            "{}: name the thing that is in it",
            path.display()
        );
    }
}

#[test]
fn the_licence_is_there_and_every_member_names_it() {
    let text = fs::read_to_string(root().join("LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0"));
    for package in metadata(&["--no-deps"]).unwrap()["packages"]
        .as_array()
        .unwrap()
    {
        assert_eq!(package["license"], "Apache-2.0", "{}", package["name"]);
    }
}

/// Every Rust file of the checkout, target directories left out.
fn sources() -> Vec<(PathBuf, String)> {
    let mut waiting: Vec<_> = ["crates", "tests", "xtask"]
        .map(|name| root().join(name))
        .into();
    let mut sources = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let skipped = path.file_name().is_some_and(|name| name == "target");
            if !skipped {
                waiting.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path, text));
        }
    }
    assert!(sources.len() > 10, "the walk went nowhere");
    sources
}
