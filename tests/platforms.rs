//! Which platforms of an index are run: the host's, those of the gate file, or all.

use smokegate_test_support::{
    Attestations, BuiltImage, Finished, ImageFixture, OciContent, RunAs, Smokegate,
};

/// No emulator of anybody's has this architecture, so that it cannot be executed on any host.
const FOREIGN: &str = "linux/pdp11";

struct Bench {
    context: Smokegate,
    own: BuiltImage,
    other: BuiltImage,
}

impl Bench {
    /// An index of the host's platform and another one, `index.tar`.
    fn new(run_as: RunAs, other: Option<&str>) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let own = ImageFixture::load("serve").build();
        let near = match own.platform.as_str() {
            "linux/arm64" => "linux/arm64/v9",
            _ => "linux/amd64/v2",
        };
        let other = other.unwrap_or(near);
        // Something of its own, as one manifest may stand for several platforms.
        let mut other = ImageFixture::load("serve").for_platform(other);
        let label = serde_json::json!({"whose": "the other's"});
        other.config.insert("Labels".into(), label);
        let other = other.build();
        let index = OciContent::index_of(&[own.clone(), other.clone()], Attestations::PerImage);
        index.write_archive(&context.dir().join("index.tar"));
        Some(Self {
            context,
            own,
            other,
        })
    }

    fn run(&self, file: &str, args: &[&str]) -> Finished {
        self.context.write(
            "smokegate.yaml",
            format!("version: 1\napp: {{ports: [\"0:8080\"]}}\n{file}"),
        );
        self.context.run([args, &["index.tar"]].concat())
    }

    /// Platforms that the receipt calls tested, and those it calls untested.
    fn recorded(&self) -> (Vec<String>, Vec<String>) {
        let receipt = self.context.receipt();
        let names = |key: &str| {
            let list = receipt["image"][key].as_array().unwrap().iter();
            list.map(|one| one["platform"].as_str().unwrap().to_owned())
                .collect()
        };
        (names("tested"), names("untested"))
    }
}

fn the_hosts_is_run_and_others_are_published_untested(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, Some(FOREIGN)) else {
        return;
    };
    let (own, other) = (bench.own.platform.clone(), FOREIGN.to_owned());
    let shipped = bench.run("", &["ship", "--tag", "oci:published:v1"]);
    shipped.assert_code(0);
    assert_eq!(bench.recorded(), (vec![own.clone()], vec![other.clone()]));
    let published = bench.context.dir().join("published/blobs/sha256");
    for image in [&bench.own, &bench.other] {
        let digest = image.digest().to_string();
        let name = digest.strip_prefix("sha256:").unwrap();
        assert!(published.join(name).exists(), "{digest}");
    }
    for (file, args) in [
        ("platforms: all", &["gate"][..]),
        ("platforms: [linux/pdp11]", &["gate"]),
        ("variants: {one: , two: {platform: linux/pdp11}}", &["gate"]),
        ("", &["gate", "--platform", FOREIGN]),
        ("platforms: all", &["ship", "--tag", "oci:other:v1"]),
    ] {
        let refused = bench.run(file, args);
        refused.assert_code(3);
        let cause = "error: this host cannot execute programs for linux/pdp11: no emulator for them is registered";
        assert!(refused.stderr.contains(cause), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("hint: install an emulator"),
            "{}",
            refused.stderr
        );
        assert_eq!(bench.recorded(), (vec![], vec![own.clone(), other.clone()]));
    }
    assert!(!bench.context.dir().join("other").exists());
    // The flag wins over the file, but does not clear what the file wants tested.
    let narrowed = &["--platform", own.as_str()];
    bench
        .run("platforms: all", &[&["gate"], &narrowed[..]].concat())
        .assert_code(0);
    assert_eq!(bench.context.receipt()["partial"], true);
    let ship = [&["ship", "--tag", "oci:other:v1"], &narrowed[..]].concat();
    bench.run("platforms: all", &ship).assert_code(2);
    bench
        .run(
            "platforms: all",
            &[&ship[..], &["--allow-partial"]].concat(),
        )
        .assert_code(0);
}

#[test]
fn root_the_hosts_platform_is_run_and_others_are_published_untested() {
    the_hosts_is_run_and_others_are_published_untested(RunAs::Root);
}

#[test]
fn rootless_the_hosts_platform_is_run_and_others_are_published_untested() {
    the_hosts_is_run_and_others_are_published_untested(RunAs::OrdinaryUser);
}

fn all_that_are_wanted_are_run(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, None) else {
        return;
    };
    let (own, other) = (bench.own.platform.clone(), bench.other.platform.clone());
    let names = || {
        let receipt = bench.context.receipt();
        let variants = receipt["variants"].as_array().unwrap().iter();
        let one =
            |key: &str, variant: &serde_json::Value| variant[key].as_str().unwrap().to_owned();
        variants
            .map(|v| (one("name", v), one("platform", v)))
            .collect::<Vec<_>>()
    };
    let at = |platform: &str| format!("default@{}", platform.replace('/', "-"));
    bench
        .run("platforms: all", &["ship", "--tag", "oci:published:v1"])
        .assert_code(0);
    assert_eq!(
        names(),
        [(at(&own), own.clone()), (at(&other), other.clone())]
    );
    assert_eq!(bench.recorded(), (vec![own.clone(), other.clone()], vec![]));
    let file = format!("variants: {{one: , two: {{platform: {other}}}}}");
    bench.run(&file, &["gate"]).assert_code(0);
    assert_eq!(
        names(),
        [("one".into(), own.clone()), ("two".into(), other.clone())]
    );
    bench
        .run(&format!("platforms: [{other}]"), &["gate"])
        .assert_code(0);
    assert_eq!(bench.recorded(), (vec![other.clone()], vec![own]));
}

#[test]
fn root_all_platforms_that_are_wanted_are_run() {
    all_that_are_wanted_are_run(RunAs::Root);
}

#[test]
fn rootless_all_platforms_that_are_wanted_are_run() {
    all_that_are_wanted_are_run(RunAs::OrdinaryUser);
}

#[test]
fn cli_a_platform_that_is_not_there_is_shown_in_the_gate_file() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    context.archive("serve", &ImageFixture::load("serve").build());
    context.write("smokegate.yaml", "version: 1\nplatforms: [linux/s390x]\n");
    let refused = context.run(["gate", "serve.oci.tar"]);
    refused.assert_code(2);
    let first = "error: smokegate.yaml:2:13: the image has no linux/s390x";
    assert!(refused.stderr.contains(first), "{}", refused.stderr);
}
