//! The case this tool was made for: an app with PostgreSQL, pgvector and Redis, its gate file, and what went wrong
//! with its gate, one defect after the other.

use std::fs;
use std::time::Duration;

use smokegate_test_support::{
    BuiltImage, Finished, ImageFixture, LayerContent, Need, RunAs, Smokegate, debian_image,
    on_debian, require,
};

/// The gate file of the documentation, on ports of the host that are free.
fn documented() -> String {
    let file = fs::read_to_string("fixtures/gatefiles/documented.yaml").unwrap();
    replaced(
        &file,
        &[("\"18080:8080\", \"19100:9100\"", "\"0:8080\", \"0:9100\"")],
    )
}

fn replaced(file: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(file.to_owned(), |file, (from, to)| {
        assert!(file.contains(from), "{from}");
        file.replace(from, to)
    })
}

struct Bench {
    context: Smokegate,
    app: BuiltImage,
}

impl Bench {
    fn new(run_as: RunAs) -> Option<Self> {
        if !require(Need::Mmdebstrap) {
            return None;
        }
        let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        // No newuidmap, nor anything else.
        context
            .env("PATH", context.dir().join("home"))
            .limit(Duration::from_secs(240));
        fs::create_dir(context.dir().join("images")).unwrap();
        debian_image("origin-pgvector").write_docker_archive(
            &context.dir().join("images/pgvector.tar"),
            Some("pgvector:17"),
        );
        debian_image("origin-redis")
            .write_oci_archive(&context.dir().join("images/redis.tar"), None);
        let app = debian_image("origin-tenant");
        app.write_oci_archive(&context.dir().join("app.tar"), None);
        Some(Self { context, app })
    }

    fn gate(&self, gate_file: &str, arguments: &[&str]) -> Finished {
        self.context.write("smokegate.yaml", gate_file);
        self.context.run([&["gate", "app.tar"], arguments].concat())
    }
}

fn the_documented_gate_file_passes(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    bench
        .gate(&documented(), &["--parallel", "2"])
        .assert_code(0);
    let receipt = bench.context.receipt();
    assert_eq!(receipt["image"]["digest"], bench.app.digest().to_string());
    if run_as == RunAs::OrdinaryUser {
        assert_eq!(receipt["isolation"]["level"], "single");
    }
    let variants = receipt["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 2);
    for variant in variants {
        assert_eq!(variant["verdict"], "passed", "{variant}");
        let services = variant["services"].as_array().unwrap();
        let names: Vec<_> = services
            .iter()
            .map(|s| s["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["pgvector", "redis", "migrate"]);
        assert_eq!(services[2]["exit"]["code"], 0, "the migration: {variant}");
    }
    let log = |path: &str| {
        let path = bench.context.dir().join("smokegate-report/logs").join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    assert!(log("full-env/app.log").contains("serving /v1/health on port 9100"));
    assert!(!log("memory-plugin-disabled/app.log").contains("/v1/health"));
    assert!(log("full-env/migrate.log").contains("migrated"));
}

#[test]
fn root_the_documented_gate_file_passes() {
    the_documented_gate_file_passes(RunAs::Root);
}

#[test]
fn rootless_the_documented_gate_file_passes() {
    the_documented_gate_file_passes(RunAs::OrdinaryUser);
}

/// A mistake of those who wrote the first gate, or of the image, and what they are told.
struct Defect {
    what: &'static str,
    edits: &'static [(&'static str, &'static str)],
    code: i32,
    /// All of these stand on standard error; the first one begins the line that names the cause.
    words: &'static [&'static str],
    /// What of it is in the first three lines: the cause, and what to do.
    first: [&'static str; 2],
}

const REDIS: &str = r#"  redis:
    image: oci-archive:images/redis.tar
    command: [redis-server, --bind, 0.0.0.0, --protected-mode, "no", --save, ""]
    probes: [{exec: [redis-cli, PING], expect: PONG}]
"#;
const MIGRATE: &str = "  migrate:
    image: app                                     # the image under test itself
    command: [/app/migrate]
    one_shot: true                                 # must exit 0 before the app starts
    depends_on: [pgvector]
";

const DEFECTS: &[Defect] = &[
    Defect {
        what: "no Redis",
        edits: &[
            (
                "  depends_on: [pgvector, redis]",
                "  depends_on: [pgvector]",
            ),
            ("    REDIS_URL: redis://redis:6379/0\n", ""),
            (REDIS, ""),
        ],
        code: 1,
        words: &[
            "error: the entrypoint exited with code 1",
            "app dialled localhost:6379, nothing listens there (6379 is Redis's port)",
            "FATAL: connecting to Redis: ",
            "hint: run Redis as a service",
            "variant: full-env",
            "variant: memory-plugin-disabled",
        ],
        first: ["connecting to Redis", "fix: run Redis as a service"],
    },
    Defect {
        what: "asked for /healthz where the app serves /health",
        edits: &[
            ("path: /health,", "path: /healthz,"),
            ("within: 180s", "within: 4s"),
        ],
        code: 1,
        words: &[
            "error: GET /healthz on port 8080 did not pass in ",
            "it answered 404",
            "; GET /health passes",
            "hint: if that is its health check, ask it: `path: /health` in the gate file",
        ],
        first: [
            "GET /health passes",
            "fix: if that is its health check, ask it: `path: /health`",
        ],
    },
    Defect {
        what: "the disabled variant without a database",
        edits: &[
            (
                "environment: {MEMORY_PLUGIN_DISABLE: \"1\"}",
                "environment: {MEMORY_PLUGIN_DISABLE: \"1\", DATABASE_URL: null}",
            ),
            // It has the app's environment, and would be the first to miss the database.
            (MIGRATE, ""),
        ],
        code: 1,
        words: &[
            "error: the entrypoint exited with code 1",
            "app dialled localhost:5432, nothing listens there; service pgvector does, on pgvector:5432",
            "FATAL: connecting to PostgreSQL: ",
            "hint: localhost in a container is that container alone: dial pgvector:5432",
            "variant: memory-plugin-disabled",
            "variant full-env: passed",
        ],
        first: [
            "app dialled localhost:5432, nothing listens there",
            "fix: localhost in a container is that container alone: dial pgvector:5432",
        ],
    },
    Defect {
        what: "a service that never gets ready",
        edits: &[("      - tcp: 5432\n", "      - {tcp: 5433, within: 4s}\n")],
        code: 4,
        words: &[
            "error: service `pgvector` was not ready in ",
            "database system is ready to accept connections",
        ],
        first: [
            "service `pgvector` was not ready",
            "a TCP connection to port 5433: connection refused",
        ],
    },
    Defect {
        what: "the extension that the service's image does not have",
        edits: &[("EXISTS vector", "EXISTS vectors")],
        code: 4,
        words: &[
            "error: service `pgvector`: `psql -h 127.0.0.1 -U smoke -c CREATE EXTENSION IF NOT EXISTS vectors` exited with code 1",
            "extension \"vectors\" is not available",
        ],
        first: [
            "`psql -h 127.0.0.1",
            "CREATE EXTENSION IF NOT EXISTS vectors",
        ],
    },
    Defect {
        what: "a migration that exits with 1",
        edits: &[(
            "    command: [/app/migrate]\n",
            "    command: [/app/migrate]\n    environment: {DATABASE_URL: \"postgres://smoke:smoketest@pgvector/missing\"}\n",
        )],
        code: 4,
        words: &[
            "error: service `migrate` exited with code 1",
            "FATAL: connecting to PostgreSQL: ",
            "database \"missing\" does not exist",
        ],
        first: ["service `migrate` exited with code 1", "variant: "],
    },
];

#[test]
fn rootless_each_defect_of_the_origin_is_named() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    for defect in DEFECTS {
        let finished = bench.gate(&replaced(&documented(), defect.edits), &[]);
        finished.assert_code(defect.code);
        let block = finished.stderr.lines();
        let block = block.skip_while(|line| !line.starts_with("error: "));
        let first: Vec<_> = block.take(3).collect();
        for words in defect.first {
            let is_there = first.iter().any(|line| line.contains(words));
            assert!(is_there, "{}: `{words}`: {first:#?}", defect.what);
        }
        for words in defect.words {
            assert!(
                finished.stderr.contains(words),
                "{}: `{words}` is missing:\n{}",
                defect.what,
                finished.stderr
            );
        }
    }
}

/// The outage itself: the branch that only the full environment takes starts a program that the image has not got.
#[test]
fn rootless_the_missing_plugin_fails_the_variant_that_needs_it() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let mut fixture = ImageFixture::load("origin-tenant");
    for layer in &mut fixture.layers {
        if let LayerContent::Entries(entries) = &mut layer.content {
            entries.retain(|entry| entry.name != "app/memory-plugin");
        }
    }
    on_debian(fixture).write_oci_archive(&bench.context.dir().join("app.tar"), None);
    let file = replaced(&documented(), &[("within: 30s", "within: 4s")]);
    let finished = bench.gate(&file, &[]);
    finished.assert_code(1);
    for words in [
        "` runs `/app/memory-plugin` in the background, and goes on without it, which the image has not\n  nothing listens \
         on port 9100: the app listens on 0.0.0.0:8080\n  fix: copy `/app/memory-plugin` into the image",
        "/app/memory-plugin: not found",
        "variant memory-plugin-disabled: passed",
    ] {
        assert!(
            finished.stderr.contains(words),
            "{words}:\n{}",
            finished.stderr
        );
    }
}
