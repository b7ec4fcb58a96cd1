//! Receipts that travel: attached to an image, signed, verified, required.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use smokegate_image::Digest;
use smokegate_test_support::{
    EcrManners, FakeEcr, Fault, FaultSchedule, Finished, Need, RunAs, Smokegate, program, require,
};

use super::ecr::Ecr;
use super::{Registry, beside_registry, oci_archive, ship, skopeo_digest, smokegate, text};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PREDICATE: &str = "https://in-toto.io/attestation/test-result/v0.1";

/// A key pair that openssl makes: the private key's file and the public one's.
pub(super) fn key_pair(context: &Smokegate, name: &str) -> Option<(PathBuf, PathBuf)> {
    if !require(Need::Openssl) {
        return None;
    }
    let private = context.dir().join(format!("{name}.pem"));
    let public = context.dir().join(format!("{name}.pub"));
    openssl(&format!(
        "ecparam -name prime256v1 -genkey -noout -out {}",
        text(&private)
    ));
    openssl(&format!(
        "ec -in {} -pubout -out {}",
        text(&private),
        text(&public)
    ));
    let pem = fs::read(&private).unwrap();
    // Written again by who may give it to the user of the run.
    Some((context.write(&format!("{name}.key"), pem), public))
}

#[track_caller]
fn openssl(words: &str) {
    let output = program("openssl")
        .args(words.split(' '))
        .output()
        .expect("starting openssl");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words}: {message}");
}

/// What docker-registry, which has no referrers API, has listed under the tag in its place.
#[track_caller]
fn referrers(registry: &Registry, repository: &str, subject: &Digest) -> Vec<Value> {
    let tag = subject.to_string().replace(':', "-");
    let reference = registry.reference(&format!("{repository}:{tag}"));
    let digest = skopeo_digest(&format!("docker://{reference}"));
    let index = stored(registry, &digest);
    index["manifests"].as_array().unwrap().clone()
}

#[track_caller]
fn stored(registry: &Registry, digest: &str) -> Value {
    let digest: Digest = digest.parse().unwrap();
    let bytes = fs::read(registry.server.blob_path(&digest)).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The bundle of a referrer, and the statement in it.
#[track_caller]
fn opened(registry: &Registry, referrer: &Value) -> (Value, Value) {
    let manifest = stored(registry, referrer["digest"].as_str().unwrap());
    let bundle = stored(registry, manifest["layers"][0]["digest"].as_str().unwrap());
    let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
    let statement = serde_json::from_slice(&STANDARD.decode(payload).unwrap()).unwrap();
    (bundle, statement)
}

fn verify(context: &Smokegate, subject: &str, more: &[&str]) -> Finished {
    let mut words = vec!["verify", subject];
    words.extend(more);
    context.run(words)
}

fn attached(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let more = [
        "--attach-receipt",
        "--sign-key",
        text(&key),
        "--env",
        "TOKEN=value-of-a-variable",
    ];
    ship(&context, &archive, &[&reference], &more).assert_code(0);
    registry.assert_image(&image);

    let listed = referrers(&registry, "team/app", &image.digest());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["artifactType"], BUNDLE);
    assert_eq!(
        listed[0]["annotations"]["dev.sigstore.bundle.predicateType"],
        PREDICATE
    );
    let manifest = stored(&registry, listed[0]["digest"].as_str().unwrap());
    assert_eq!(manifest["subject"]["digest"], image.digest().to_string());
    assert_eq!(manifest["layers"][0]["mediaType"], BUNDLE);

    let (bundle, statement) = opened(&registry, &listed[0]);
    assert_eq!(bundle["mediaType"], BUNDLE);
    let envelope = &bundle["dsseEnvelope"];
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");
    assert_eq!(envelope["signatures"].as_array().unwrap().len(), 1);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], PREDICATE);
    assert_eq!(
        statement["subject"],
        json!([{"digest": {"sha256": image.digest().hex()}}])
    );
    assert_eq!(statement["predicate"]["result"], "PASSED");
    let passed = statement["predicate"]["passedTests"].as_array().unwrap();
    assert_eq!(passed.len(), 1);
    assert_signed(&context, envelope, &public);
    assert_says_nothing_of_the_host(&context, &registry, &statement);

    let run = verify(&context, &reference, &["--verify-key", text(&public)]);
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{}\n", image.digest()));
    let run = verify(
        &context,
        &reference,
        &["--verify-key", text(&public), "--format", "json"],
    );
    run.assert_code(0);
    let shown: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(shown, statement);
}

#[test]
fn registry_real_root_attaches_a_signed_receipt() {
    attached(RunAs::Root);
}

#[test]
fn registry_real_rootless_attaches_a_signed_receipt() {
    attached(RunAs::OrdinaryUser);
}

/// What openssl thinks of the signature, over bytes that are put together here.
#[track_caller]
fn assert_signed(context: &Smokegate, envelope: &Value, public: &Path) {
    let payload = STANDARD
        .decode(envelope["payload"].as_str().unwrap())
        .unwrap();
    let kind = envelope["payloadType"].as_str().unwrap();
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    let signed = context.write("signed", [head.as_bytes(), &payload].concat());
    let signature = envelope["signatures"][0]["sig"].as_str().unwrap();
    let signature = context.write("signature", STANDARD.decode(signature).unwrap());
    openssl(&format!(
        "dgst -sha256 -verify {} -signature {} {}",
        text(public),
        text(&signature),
        text(&signed)
    ));
}

/// Everybody who may pull the image may read it.
#[track_caller]
fn assert_says_nothing_of_the_host(context: &Smokegate, registry: &Registry, statement: &Value) {
    let statement = statement.to_string();
    let log = context.app_log();
    assert!(!log.is_empty());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let address = registry.server.address();
    let places = [
        "value-of-a-variable",
        "TOKEN",
        "127.0.0.1",
        "10.88.0.",
        "/healthz",
        host.trim(),
        &address,
        text(context.dir()),
    ];
    for told in log.iter().map(String::as_str).chain(places) {
        assert!(!statement.contains(told), "`{told}` in {statement}");
    }
}

#[test]
fn registry_real_rootless_only_receipts_that_are_believed_count() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (Some((key, public)), Some((_, other))) =
        (key_pair(&context, "own"), key_pair(&context, "other"))
    else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let (_, second) = oci_archive(&context, "layers-packed");
    let (_, third) = oci_archive(&context, "two-ports");
    let [signed, unsigned, none] =
        ["signed", "unsigned", "none"].map(|name| registry.reference(&format!("team/{name}:v1")));
    let sign = ["--attach-receipt", "--sign-key", text(&key)];
    ship(&context, &archive, &[&signed], &sign).assert_code(0);
    ship(&context, &second, &[&unsigned], &["--attach-receipt"]).assert_code(0);
    context
        .run(["push", text(&third), "--tag", &none])
        .assert_code(0);

    let own = ["--verify-key", text(&public)];
    let others = ["--verify-key", text(&other)];
    let anyone = ["--allow-unsigned"];
    let both = ["--verify-key", text(&public), "--allow-unsigned"];
    let cases: [(&str, &[&str], i32, &str); 9] = [
        (&signed, &own, 0, ""),
        (&signed, &others, 1, "is not signed by this key"),
        (&signed, &anyone, 0, ""),
        (&signed, &[], 2, "error: no key to verify receipts with"),
        (&signed, &both, 2, "cannot be used with"),
        (&unsigned, &own, 1, "is not signed"),
        (&unsigned, &anyone, 0, ""),
        (&none, &own, 1, "error: no receipt is attached to"),
        (&none, &anyone, 1, "error: no receipt is attached to"),
    ];
    for (reference, trust, code, said) in cases {
        let run = verify(&context, reference, trust);
        assert_eq!(run.code(), Some(code), "{trust:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert_eq!(run.stdout.is_empty(), code != 0, "{}", run.stdout);

        let to = registry.reference(&format!("production/app:v{code}"));
        let mut words = vec!["promote", reference, "--tag", &to, "--require-receipt"];
        words.extend(trust);
        let run = context.run(words);
        assert_eq!(run.code(), Some(code), "{trust:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
    // What was refused left no tag behind.
    let tags = registry.server.tags("production/app");
    assert!(!tags.contains(&"v1".to_owned()) && !tags.contains(&"v2".to_owned()));
    let run = context.run(["promote", &signed, "--tag", &none, "--allow-unsigned"]);
    run.assert_code(2);
    assert!(
        run.stderr.contains("hint: add --require-receipt"),
        "{}",
        run.stderr
    );
}

/// A receipt in a file, and what is wrong with it.
#[test]
fn rootless_receipts_in_files_are_verified() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let tag = "oci:layout:v1";
    let sign = ["--attach-receipt", "--sign-key", text(&key)];
    ship(&context, &archive, &[tag], &sign).assert_code(0);
    let receipt = context.dir().join("smokegate-report/receipt.json");
    let bundle = bundle_of(&context.dir().join("layout"));
    let whole: Value = serde_json::from_slice(&bundle).unwrap();
    let good = context.write("bundle.json", &bundle);
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let payload = whole["dsseEnvelope"]["payload"].as_str().unwrap();
        let mut statement = serde_json::from_slice(&STANDARD.decode(payload).unwrap()).unwrap();
        change(&mut statement);
        let mut forged = whole.clone();
        forged["dsseEnvelope"]["payload"] = STANDARD.encode(statement.to_string()).into();
        context.write(name, forged.to_string())
    };
    let forged = changed("forged", &|statement| {
        statement["subject"][0]["digest"]["sha256"] = "0".repeat(64).into();
    });
    let partial = changed("partial", &|statement| {
        statement["predicate"]["smokegate"]["partial"] = true.into();
    });
    let failed = changed("failed", &|statement| {
        statement["predicate"]["smokegate"]["variants"][0]["verdict"] = "failed".into();
    });
    let foreign = changed("foreign", &|statement| {
        statement["predicateType"] = "https://slsa.dev/provenance/v1".into();
    });
    let rubbish = context.write("rubbish", "{}");

    let own = ["--verify-key", text(&public)];
    let anyone = ["--allow-unsigned"];
    let digest = image.digest().to_string();
    let another = Digest::sha256(b"another").to_string();
    let of_image = ["--allow-unsigned", "--digest", &digest];
    let of_another = ["--allow-unsigned", "--digest", &another];
    let cases: [(&Path, &[&str], i32, &str); 14] = [
        (Path::new("no.json"), &anyone, 2, "names no registry"),
        (&good, &own, 0, "signed by the key"),
        (&good, &of_image, 0, ""),
        (&good, &of_another, 1, "not for this image"),
        (&receipt, &anyone, 0, ""),
        (&receipt, &of_another, 1, "not for this image"),
        (&receipt, &own, 1, "is not signed"),
        (&forged, &own, 1, "is not signed by this key"),
        (&partial, &own, 1, "is not signed by this key"),
        (&partial, &anyone, 1, "is of a partial run"),
        (&failed, &anyone, 1, "is not a pass"),
        (&foreign, &anyone, 1, "an attestation of another kind"),
        (&rubbish, &anyone, 2, "is not a receipt of smokegate"),
        (Path::new("oci:layout"), &own, 0, "signed by the key"),
    ];
    for (subject, trust, code, said) in cases {
        let run = verify(&context, text(subject), trust);
        let case = format!("{} {trust:?}: {}", subject.display(), run.stderr);
        assert_eq!(run.code(), Some(code), "{case}");
        assert!(run.stderr.contains(said), "{case}");
        let shown = if code == 0 {
            format!("{digest}\n")
        } else {
            String::new()
        };
        assert_eq!(run.stdout, shown, "{case}");
    }
}

/// The only bundle of a layout.
fn bundle_of(layout: &Path) -> Vec<u8> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let contents = blobs.map(|blob| fs::read(blob.unwrap().path()).unwrap());
    let is_bundle = |bytes: &Vec<u8>| {
        serde_json::from_slice::<Value>(bytes).is_ok_and(|json| json["mediaType"] == BUNDLE)
    };
    let mut bundles: Vec<_> = contents.filter(is_bundle).collect();
    assert_eq!(bundles.len(), 1);
    bundles.remove(0)
}

/// Where the receipt can be read when the tags cannot be moved, or not be attached at all.
#[test]
fn rootless_receipt_of_tags_that_went_back_stays_attached() {
    for lists_referrers in [true, false] {
        let manners = EcrManners {
            lists_referrers,
            ..EcrManners::default()
        };
        let Some((ecr, old)) = Ecr::with_old_tags(RunAs::OrdinaryUser, manners) else {
            return;
        };
        let tags = ["main", "latest"];
        let ship = |method, path, allowed| {
            let refuse =
                FaultSchedule::default().and_lasting(method, path, allowed, Fault::Refuse(403));
            ecr.fake.set_faults(refuse);
            let run = ecr.run("ship", &tags, &["--publish", "0:8080", "--attach-receipt"]);
            run.assert_code(6);
            assert_eq!(run.stdout, "");
            assert_eq!(ecr.context.receipt()["published"], json!([]));
            ecr.fake.set_faults(FaultSchedule::default());
            run
        };
        let digest = ecr.image.digest();
        let by_digest = format!("{}/team/app@{digest}", FakeEcr::HOST);
        let config = ecr.context.dir().join("registries.toml");
        let trust = ["--allow-unsigned", "--registry-config", text(&config)];
        let verify = || verify(&ecr.context, &by_digest, &trust);

        // The image's manifest is taken, the receipt's is not.
        let run = ship("PUT", "/manifests/sha256:", 1);
        let said = format!("to {digest}: the registry answered 403");
        let first = run
            .stderr
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap();
        assert!(
            first.contains("publishing failed: cannot attach sha256:") && first.contains(&said),
            "{first}"
        );
        assert!(
            run.stderr.contains("\n  no tag was moved\n"),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains("without `--attach-receipt`"),
            "{}",
            run.stderr
        );
        assert_eq!(ecr.tags(), old);
        verify().assert_code(1);

        // All content is taken, and then `latest` cannot be moved.
        let run = ship("PUT", "/manifests/latest", 0);
        let said = format!("what is attached to {digest}, such as its receipt, stays");
        assert!(run.stderr.contains(&said), "{}", run.stderr);
        assert!(run.stderr.contains("were put back"), "{}", run.stderr);
        let mut now = ecr.tags();
        let list = now.remove(&digest.to_string().replace(':', "-"));
        assert_eq!(list.is_none(), lists_referrers, "the list is a tag then");
        assert_eq!(now, old);
        let run = verify();
        run.assert_code(0);
        assert_eq!(run.stdout, format!("{digest}\n"));
    }
}

#[test]
fn cli_keys_that_are_of_no_use_are_refused_before_anything_runs() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let make = |name: &str, words: &str| {
        let path = context.dir().join(name);
        openssl(&format!("{words} -out {}", text(&path)));
        context.write(&format!("{name}.copy"), fs::read(path).unwrap())
    };
    let p384 = make("p384", "ecparam -name secp384r1 -genkey -noout");
    let rsa = make("rsa", "genpkey -algorithm RSA");
    let encrypted = make(
        "encrypted",
        &format!("pkcs8 -topk8 -passout pass:x -in {}", text(&key)),
    );
    let none = context.dir().join("none");
    for (file, said) in [
        (&p384, "is not one for ECDSA on P-256"),
        (&rsa, "is not one for ECDSA on P-256"),
        (&encrypted, "is encrypted"),
        (&public, "is not a private key in PEM"),
        (&archive, "is not a private key in PEM"),
        (&none, "cannot read the key"),
    ] {
        let more = ["--attach-receipt", "--sign-key", text(file)];
        let run = ship(&context, &archive, &["oci:layout:v1"], &more);
        run.assert_code(2);
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
    for (file, said) in [
        (&key, "is a private one"),
        (&archive, "is not a public key in PEM"),
        (&none, "cannot read the key"),
    ] {
        let run = verify(&context, text(&archive), &["--verify-key", text(file)]);
        run.assert_code(2);
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
    let run = context.run([
        "push",
        text(&archive),
        "--tag",
        "oci:l:v1",
        "--attach-receipt",
    ]);
    run.assert_code(2);
    assert!(
        run.stderr.contains("no receipt to attach"),
        "{}",
        run.stderr
    );
}

/// `PRIVATE KEY` and `EC PRIVATE KEY` are the same key.
#[test]
fn rootless_a_gated_image_is_pushed_with_its_receipt() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    context
        .run(["gate", text(&archive), "--publish", "0:8080"])
        .assert_code(0);
    let pkcs8 = context.dir().join("pkcs8");
    openssl(&format!(
        "pkcs8 -topk8 -nocrypt -in {} -out {}",
        text(&key),
        text(&pkcs8)
    ));
    let pkcs8 = context.write("pkcs8.key", fs::read(pkcs8).unwrap());
    for (number, key) in [key, pkcs8].iter().enumerate() {
        let tag = format!("oci:layout-{number}:v1");
        context
            .run([
                "push",
                text(&archive),
                "--receipt",
                "smokegate-report/receipt.json",
                "--attach-receipt",
                "--sign-key",
                text(key),
                "--tag",
                &tag,
            ])
            .assert_code(0);
        verify(&context, &tag, &["--verify-key", text(&public)]).assert_code(0);
    }
}

fn air_gap(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let words = [
        "ship",
        text(&archive),
        "--publish",
        "0:8080",
        "--attach-receipt",
        "--sign-key",
        text(&key),
        "--tag",
        "oci-archive:out.tar:v1",
    ];
    // No network at all, and the loopback interface is down.
    let isolated: &[&str] = match run_as {
        RunAs::Root => &["unshare", "--net"],
        RunAs::OrdinaryUser => &["unshare", "--user", "--map-current-user", "--net"],
    };
    let command = context.command_under(isolated, words);
    let run = context.start_command(command).wait(Duration::from_secs(60));
    run.assert_code(0);
    assert_eq!(
        run.stdout,
        format!("oci-archive:out.tar:v1@{}\n", image.digest())
    );

    // On the other side.
    let reference = registry.reference("team/app:v1");
    let push = |archive: &str, trust: &[&str]| {
        let mut words = vec!["push", archive, "--require-receipt", "--tag", &reference];
        words.extend(trust);
        context.run(words)
    };
    push(text(&archive), &["--verify-key", text(&public)]).assert_code(1);
    push("out.tar", &[]).assert_code(2);
    assert!(registry.server.is_empty());
    let run = push("out.tar", &["--verify-key", text(&public)]);
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
    registry.assert_image(&image);
    verify(&context, &reference, &["--verify-key", text(&public)]).assert_code(0);
}

#[test]
fn registry_real_root_carries_a_receipt_over_an_air_gap() {
    air_gap(RunAs::Root);
}

#[test]
fn registry_real_rootless_carries_a_receipt_over_an_air_gap() {
    air_gap(RunAs::OrdinaryUser);
}

/// A run of one of two variants clears nothing, unless that is said.
#[test]
fn rootless_a_receipt_of_a_partial_run_is_none() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    context.write(
        "smokegate.yaml",
        r#"
version: 1
app: {ports: ["0:8080"], probes: [{http: {path: /healthz}, within: 20s}]}
variants: {one: {}, two: {environment: {X: "1"}}}
"#,
    );
    let partly = ["--variant", "one", "--allow-partial", "--attach-receipt"];
    let mut words = vec!["ship", text(&archive), "--tag", "oci:layout:v1"];
    words.extend(partly);
    context.run(words).assert_code(0);
    let run = verify(&context, "oci:layout", &["--allow-unsigned"]);
    run.assert_code(1);
    assert!(run.stderr.contains("is of a partial run"), "{}", run.stderr);

    let receipt = "smokegate-report/receipt.json";
    let push = [
        "push",
        text(&archive),
        "--tag",
        "oci:other:v1",
        "--receipt",
        receipt,
    ];
    context.run(push).assert_code(1);
    let mut allowed = push.to_vec();
    allowed.push("--allow-partial");
    context.run(allowed).assert_code(0);
}
