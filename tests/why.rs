//! Images that cannot start or work, through the gate: the first line names the cause, the receipt has its kind, and all
//! of it fits on a screen.

mod compiled;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate, fixture_dir};

/// Lines from `error:` to `hint:`.
const SCREEN: usize = 25;

fn recipes(dir: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(fixture_dir().join("..").join(dir)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let read = |path: PathBuf| (name(&path), fs::read_to_string(path).unwrap());
    files.into_iter().map(read).collect()
}

fn bench(run_as: RunAs) -> Option<Smokegate> {
    let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
    context.limit(Duration::from_secs(60));
    Some(context)
}

fn gate(context: &Smokegate, image: &ImageFixture) -> Finished {
    let archive = context.archive("image", &image.build());
    let archive = archive.to_str().unwrap();
    let _ = fs::remove_dir_all(context.dir().join("smokegate-report"));
    context.run([
        "gate",
        archive,
        "--publish",
        "0:8080",
        "--within",
        "1s",
        "--interval",
        "100ms",
    ])
}

/// The block that ends standard error.
fn block(run: &Finished) -> Vec<&str> {
    let lines = run.stderr.lines();
    lines
        .skip_while(|line| !line.starts_with("error: "))
        .collect()
}

/// The head of a recipe: what comes behind `# key: `.
fn head<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut lines = text.lines().take_while(|line| line.starts_with('#'));
    lines.find_map(|line| {
        line.strip_prefix("# ")?
            .strip_prefix(key)?
            .strip_prefix(": ")
    })
}

/// What glibc from 2.33 on says of a program that was built for a newer CPU: it may be right where it is to run, so
/// that it was not judged.
#[test]
fn rootless_a_cpu_that_is_too_old_is_not_the_images_fault() {
    let Some(context) = bench(RunAs::OrdinaryUser) else {
        return;
    };
    let words = "/app: CPU ISA level is lower than required";
    let text = format!(
        "entrypoint: /probe-target print-then-exit 127 {words}\nlayer\nfile /probe-target 0755 0:0 @probe-target\n"
    );
    let run = gate(&context, &ImageFixture::parse(&text).unwrap());
    run.assert_code(3);
    let first = block(&run)[0];
    assert!(
        first.ends_with("`/app` was built for a newer CPU than this machine has"),
        "{}",
        run.stderr
    );
    assert_eq!(context.receipt()["variants"][0]["cause_id"], "cpu-level");
}

fn broken_images(run_as: RunAs) {
    let Some(context) = bench(run_as) else { return };
    let mut wrong = Vec::new();
    let recipes = recipes("broken");
    for (name, text) in &recipes {
        if text.contains("\nplatform: ") && !cfg!(target_arch = "x86_64") {
            continue;
        }
        let run = gate(&context, &ImageFixture::parse(text).unwrap());
        let block = block(&run);
        let first = block.first().copied().unwrap_or("passed");
        // An image that cannot be run here has none.
        let receipt = context.dir().join("smokegate-report/receipt.json");
        let receipt = fs::read_to_string(receipt).unwrap_or_else(|_| "{}".to_owned());
        let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
        let id = match receipt["variants"][0]["cause_id"].as_str() {
            Some(id) => id.to_owned(),
            None if run.code() == Some(0) => "passed".to_owned(),
            None => format!("exit-{}", run.code().unwrap_or(-1)),
        };
        let (wanted, says) = (
            head(text, "gate").unwrap_or("?"),
            head(text, "first").unwrap_or("?"),
        );
        if id != wanted || !first.starts_with(says) || block.len() > SCREEN {
            wrong.push(format!(
                "@@{name}\t{id}\t{first}\t{}\n{}",
                block.len(),
                run.stderr
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        recipes.len(),
        wrong.join("\n")
    );
    assert!(recipes.len() >= 76, "{}", recipes.len());
}

/// What only looks broken runs, or fails for what it does: lint stays silent about it.
fn sound_images(run_as: RunAs) {
    let Some(context) = bench(run_as) else { return };
    for (name, text) in recipes("sound") {
        let run = gate(&context, &ImageFixture::parse(&text).unwrap());
        for line in block(&run) {
            assert!(!line.contains("lint ["), "{name}: {}", run.stderr);
        }
        assert!(
            !run.stderr.contains("lint: error["),
            "{name}: {}",
            run.stderr
        );
    }
}

#[test]
fn rootless_sound_images_have_no_error_of_lint() {
    sound_images(RunAs::OrdinaryUser);
}

#[test]
fn rootless_broken_images_are_explained_by_their_cause() {
    broken_images(RunAs::OrdinaryUser);
}

#[test]
fn root_broken_images_are_explained_by_their_cause() {
    broken_images(RunAs::Root);
}

/// Which program listens, and where, is evidence and in the receipt.
fn what_listens_instead(run_as: RunAs) {
    let Some(context) = bench(run_as) else { return };
    let run = gate(&context, &ImageFixture::load("listens-on-loopback"));
    run.assert_code(1);
    let says = "  listening in the container: `probe-target` on 127.0.0.1:8080\n";
    assert!(run.stderr.contains(says), "{}", run.stderr);
    let receipt = context.receipt();
    let variant = &receipt["variants"][0];
    assert_eq!(variant["cause_id"], "unreachable-address", "{variant}");
    let listener = &variant["listening"][0];
    assert_eq!(listener["address"], "127.0.0.1:8080", "{variant}");
    assert_eq!(listener["program"], "probe-target", "{variant}");
}

#[test]
fn root_what_listens_instead_is_named_with_its_program() {
    what_listens_instead(RunAs::Root);
}

#[test]
fn rootless_what_listens_instead_is_named_with_its_program() {
    what_listens_instead(RunAs::OrdinaryUser);
}
