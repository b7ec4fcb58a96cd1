//! A registry that asks for a password: where credentials are found, and that they are shown nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use smokegate_test_support::{DockerRegistry, Finished, RunAs, Smokegate};

use super::{Registry, oci_archive, ship, smokegate};

/// `smoke:smoketest` and `smoke:wrong-secret` as an auth file holds them.
const RIGHT: &str = "c21va2U6c21va2V0ZXN0";
const WRONG: &str = "c21va2U6d3Jvbmctc2VjcmV0";

/// Puts the password where smokegate looks for it.
type SetUp = fn(&mut Smokegate, &Registry);

#[test]
fn registry_real_rootless_wrong_credentials_stop_before_anything_runs() {
    let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let auth_file = context.write("auth.json", auths(&registry, WRONG));

    let without = ship(&context, &archive, &[&reference], &["-v"]);
    context.env("REGISTRY_AUTH_FILE", auth_file);
    let wrong = ship(&context, &archive, &[&reference], &["-v"]);
    for run in [&without, &wrong] {
        run.assert_code(6);
        assert!(
            run.stderr.contains(&registry.server.address()),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains("running"), "{}", run.stderr);
    }
    assert_shows_no_secret(&context, &wrong, &["wrong-secret", WRONG]);
    assert!(!context.dir().join("smokegate-report").exists());
    assert!(registry.server.is_empty());
}

#[test]
fn registry_real_rootless_credentials_are_found_and_not_shown() {
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let set_up: [(&str, SetUp); 3] = [
        ("docker-config", |context, registry| {
            fs::create_dir(context.dir().join("docker")).unwrap();
            context.write("docker/config.json", auths(registry, RIGHT));
            context.env("DOCKER_CONFIG", context.dir().join("docker"));
        }),
        ("auth-file", |context, registry| {
            let file = context.write("auth.json", auths(registry, RIGHT));
            context.env("REGISTRY_AUTH_FILE", file);
        }),
        ("helper", |context, registry| {
            let file = context.write("bin/docker-credential-smoke", helper(registry));
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
            let path = format!("{}/bin:/usr/bin:/bin", context.dir().display());
            context.env("PATH", path);
            fs::create_dir(context.dir().join("home/.docker")).unwrap();
            let address = registry.server.address();
            let config = serde_json::json!({"credHelpers": {address: "smoke"}});
            context.write("home/.docker/config.json", config.to_string());
        }),
    ];
    for (name, set_up) in set_up {
        let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
            return;
        };
        set_up(&mut context, &registry);
        let (image, archive) = oci_archive(&context, "serve");
        let repository = format!("team/{name}");
        let reference = registry.reference(&format!("{repository}:v1"));
        context.env("RUST_LOG", "trace");
        let more = ["-v", "--attach-receipt"];
        let run = ship(&context, &archive, &[&reference], &more);
        run.assert_code(0);
        assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
        let list = image.digest().to_string().replace(':', "-");
        assert_eq!(registry.server.tags(&repository), [list, "v1".to_owned()]);
        assert_shows_no_secret(&context, &run, &[DockerRegistry::PASSWORD, RIGHT]);
    }
}

pub(super) fn auths(registry: &Registry, auth: &str) -> String {
    let address = registry.server.address();
    serde_json::json!({"auths": {address: {"auth": auth}}}).to_string()
}

/// A credential helper that answers for this registry only.
pub(super) fn helper(registry: &Registry) -> String {
    let (address, user) = (registry.server.address(), DockerRegistry::USER);
    let password = DockerRegistry::PASSWORD;
    format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 2\nread -r server\n[ \"$server\" = {address} ] || exit 1\n\
         echo '{{\"ServerURL\": \"{address}\", \"Username\": \"{user}\", \"Secret\": \"{password}\"}}'\n"
    )
}

/// Not on stdout, not on stderr, in no file of the report.
fn assert_shows_no_secret(context: &Smokegate, run: &Finished, secrets: &[&str]) {
    let mut places = vec![
        ("stdout".into(), run.stdout.clone()),
        ("stderr".into(), run.stderr.clone()),
    ];
    let mut left = vec![context.dir().join("smokegate-report")];
    while let Some(path) = left.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            left.extend(entries.map(|entry| entry.unwrap().path()));
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            places.push((path.display().to_string(), text));
        }
    }
    for (place, text) in places {
        for secret in secrets {
            assert!(!text.contains(secret), "`{secret}` in {place}:\n{text}");
        }
    }
}
