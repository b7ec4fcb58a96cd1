//! One image like those people ship: Debian with python3, into Debian's docker-registry.

use std::time::Duration;

use smokegate_test_support::{Need, RunAs, debian_image, require};

use super::{beside_registry, ship, skopeo_digest};

#[test]
fn registry_real_root_ships_debian_with_python() {
    debian_with_python(RunAs::Root);
}

#[test]
fn registry_real_rootless_ships_debian_with_python() {
    debian_with_python(RunAs::OrdinaryUser);
}

fn debian_with_python(run_as: RunAs) {
    if !require(Need::Mmdebstrap) {
        return;
    }
    let Some((mut context, registry)) = beside_registry(run_as) else {
        return;
    };
    // No newuidmap, nor anything else.
    context
        .env("PATH", context.dir().join("home"))
        .limit(Duration::from_secs(180));
    let image = debian_image("debian-python");
    let archive = context.archive("debian", &image);
    let reference = registry.reference("team/python:v1");
    let run = ship(&context, &archive, &[&reference], &[]);
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
    let receipt = context.receipt();
    assert_eq!(receipt["image"]["digest"], image.digest().to_string());
    let level = if run_as == RunAs::Root {
        "root"
    } else {
        "single"
    };
    assert_eq!(receipt["isolation"]["level"], level);
    assert_eq!(
        skopeo_digest(&format!("docker://{reference}")),
        image.digest().to_string()
    );
    registry.assert_image(&image);
}
