//! Real programs, compiled here with glibc and musl, in images that do not fit them: the kernel and the dynamic linkers
//! say what they say, and the first line says why.

use std::fs;
use std::path::Path;
use std::process::Command;

use smokegate_test_support::{
    Entry, EntryKind, FileContent, ImageFixture, LayerContent, Need, RunAs, require,
};

use super::{bench, block, gate};

/// A compiler and what its programs need at run time, by path in an image.
struct Libc {
    compiler: &'static str,
    loader: &'static str,
    /// Found on this machine, and placed in an image where it was.
    files: &'static [&'static str],
}

const GLIBC: Libc = Libc {
    compiler: "gcc",
    loader: "/lib64/ld-linux-x86-64.so.2",
    files: &[
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
    ],
};
const MUSL: Libc = Libc {
    compiler: "musl-gcc",
    loader: "/lib/ld-musl-x86_64.so.1",
    files: &["/lib/ld-musl-x86_64.so.1"],
};

/// Ends with a code of its own, so that it is known to have run.
const RUNS: &str = "int main(void) { return 42; }";
const CALLS: &str = "int own(void); int main(void) { return own(); }";

fn compile(dir: &Path, compiler: &str, source: &str, arguments: &[&str]) -> Vec<u8> {
    fs::write(dir.join("source.c"), source).unwrap();
    let compiled = Command::new(compiler)
        .args(["source.c", "-o", "program"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    fs::read(dir.join("program")).unwrap()
}

fn image(files: &[(&str, Vec<u8>)]) -> ImageFixture {
    let mut image = ImageFixture::parse("entrypoint: /app\n\nlayer\n").unwrap();
    if let LayerContent::Entries(entries) = &mut image.layers[0].content {
        entries.extend(files.iter().map(|(path, bytes)| Entry {
            name: path.trim_start_matches('/').to_owned(),
            kind: EntryKind::File(FileContent::Text(bytes.clone())),
            mode: 0o755,
            uid: 0,
            gid: 0,
        }));
    }
    image
}

fn programs_that_do_not_fit(run_as: RunAs) {
    if !cfg!(target_arch = "x86_64") || !require(Need::MuslTools) {
        return;
    }
    let Some(context) = bench(run_as) else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let with = |libc: &Libc, program: &[u8]| {
        let files = libc
            .files
            .iter()
            .map(|path| (*path, fs::read(path).unwrap()));
        files
            .chain([("/app", program.to_vec())])
            .collect::<Vec<_>>()
    };
    let of_glibc = compile(dir, GLIBC.compiler, RUNS, &[]);
    let of_musl = compile(dir, MUSL.compiler, RUNS, &[]);

    compile(
        dir,
        "gcc",
        "int own(void) { return 42; }",
        &["-shared", "-fPIC", "-Wl,-soname,libown.so.1"],
    );
    fs::rename(dir.join("program"), dir.join("libown.so")).unwrap();
    let needs_library = compile(dir, "gcc", CALLS, &["libown.so"]);
    let needs_library_of_musl = compile(dir, "musl-gcc", CALLS, &["libown.so"]);

    // A C library of a later release, as far as a program can tell.
    fs::write(dir.join("versions"), "GLIBC_2.99 { own; };\n").unwrap();
    compile(
        dir,
        "gcc",
        "int own(void) { return 42; }",
        &[
            "-shared",
            "-fPIC",
            "-nostdlib",
            "-Wl,-soname,libc.so.6",
            "-Wl,--version-script=versions",
        ],
    );
    fs::rename(dir.join("program"), dir.join("libnewer.so")).unwrap();
    let needs_newer = "void own(void); void _start(void) { own(); }";
    let needs_newer = compile(dir, "gcc", needs_newer, &["-nostdlib", "libnewer.so"]);

    for (what, files, id, first) in [
        (
            "glibc in a glibc image",
            with(&GLIBC, &of_glibc),
            "exited",
            "error: the entrypoint exited with code 42",
        ),
        (
            "musl in a musl image",
            with(&MUSL, &of_musl),
            "exited",
            "error: the entrypoint exited with code 42",
        ),
        (
            "glibc in a musl image",
            with(&MUSL, &of_glibc),
            "loader-missing",
            "error: `/app` cannot start, as `/lib64/ld-linux-x86-64.so.2` is not in the image: it was built for glibc, and this image has musl (Alpine)",
        ),
        (
            "musl in a glibc image",
            with(&GLIBC, &of_musl),
            "loader-missing",
            "error: `/app` cannot start, as `/lib/ld-musl-x86_64.so.1` is not in the image: it was built for musl (Alpine), and this image has glibc",
        ),
        (
            "without its library",
            with(&GLIBC, &needs_library),
            "library-missing",
            "error: `/app` needs the library `libown.so.1`, and the linker does not find it",
        ),
        (
            "without its library, musl",
            with(&MUSL, &needs_library_of_musl),
            "library-missing",
            "error: `/app` needs the library `libown.so.1`, and the linker does not find it",
        ),
        (
            "an older C library",
            with(&GLIBC, &needs_newer),
            "library-too-old",
            "error: `/app` needs GLIBC_2.99",
        ),
    ] {
        let run = gate(&context, &image(&files));
        run.assert_code(1);
        let receipt = context.receipt();
        let variant = &receipt["variants"][0];
        let said = block(&run)[0];
        assert!(said.starts_with(first), "{what}: {}", run.stderr);
        assert_eq!(variant["cause_id"], id, "{what}: {}", run.stderr);
        let errors = variant["findings"].as_array().map_or(0, Vec::len);
        assert_eq!(errors > 0, id != "exited", "{what}: {variant}");

        // The dynamic linker itself, without lint's help.
        let run = context.run([
            "gate",
            "image.oci.tar",
            "--publish",
            "0:8080",
            "--within",
            "1s",
            "--no-lint",
        ]);
        run.assert_code(1);
        let alone = context.receipt()["variants"][0]["cause_id"].clone();
        let wanted = if id == "loader-missing" {
            "interpreter-missing"
        } else {
            id
        };
        assert_eq!(alone, wanted, "{what}: {}", run.stderr);
    }
    assert!(
        [GLIBC, MUSL]
            .iter()
            .all(|libc| libc.files.contains(&libc.loader))
    );
}

#[test]
fn root_compiled_programs_that_do_not_fit_are_explained() {
    programs_that_do_not_fit(RunAs::Root);
}

#[test]
fn rootless_compiled_programs_that_do_not_fit_are_explained() {
    programs_that_do_not_fit(RunAs::OrdinaryUser);
}
