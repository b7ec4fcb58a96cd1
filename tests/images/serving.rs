//! Images from Debian packages are whole in their containers, and start and serve there; or cannot at a level, for a
//! reason that is true and said.

use smokegate_test_support::{Need, debian_image, require};

use super::tree::{assert_same, of_umoci};
use super::{Host, Level, Storage};

/// What must come of a run.
enum Outcome {
    Passes,
    /// Exit 3 at level `single`, with this in the first line; it passes at the others.
    NeedsIds(&'static str),
}

/// Images of packages that another one has too: their trees need not be compared again.
const AGAIN: [&str; 2] = ["debian-nginx-user", "debian-setpriv"];

fn check(name: &str, arguments: &[&str], outcome: &Outcome) {
    if !(require(Need::Mmdebstrap) && require(Need::Umoci)) {
        return;
    }
    let image = debian_image(name);
    let unpacked = (!AGAIN.contains(&name)).then(|| of_umoci(&image));
    for level in Level::ALL {
        let Some(host) = Host::new(level, &image) else {
            return;
        };
        if let Some(unpacked) = &unpacked {
            for storage in Storage::ALL {
                assert_same(name, &image, unpacked, &host, storage);
            }
        }
        let run = host.gate(arguments);
        match outcome {
            Outcome::NeedsIds(cause) if level == Level::Single => {
                run.assert_code(3);
                let said = run.stderr.lines().find(|line| line.starts_with("error: "));
                assert!(
                    said.is_some_and(|line| line.contains(cause)),
                    "{}",
                    run.stderr
                );
            }
            _ => _ = run.assert_code(0),
        }
    }
}

#[test]
fn root_python_serves_at_every_level() {
    check("debian-python", &[], &Outcome::Passes);
}

#[test]
fn root_nginx_serves_where_its_workers_may_become_another_user() {
    check(
        "debian-nginx",
        &["0:80", "--http", "/"],
        &Outcome::NeedsIds("`chown("),
    );
}

#[test]
fn root_nginx_as_a_user_serves_at_every_level() {
    check("debian-nginx-user", &["0:80"], &Outcome::Passes);
}

#[test]
fn root_redis_answers_at_every_level() {
    check("debian-redis", &["0:6379"], &Outcome::Passes);
}

#[test]
fn root_an_entrypoint_changes_its_user_where_there_are_others() {
    check(
        "debian-setpriv",
        &["0:6379"],
        &Outcome::NeedsIds("`setresuid("),
    );
}

#[test]
fn root_postgres_makes_a_database_at_every_level() {
    check("debian-postgres", &["0:5432"], &Outcome::Passes);
}

#[test]
fn root_node_serves_at_every_level() {
    check("debian-node", &[], &Outcome::Passes);
}

#[test]
fn root_java_runs_at_every_level() {
    check("debian-java", &[], &Outcome::Passes);
}

#[test]
fn root_git_runs_at_every_level() {
    check("debian-git", &[], &Outcome::Passes);
}

#[test]
fn root_busybox_alone_serves_at_every_level() {
    check("debian-busybox", &[], &Outcome::Passes);
}
