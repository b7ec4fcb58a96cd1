//! Layers on those below them.

use crate::layer::{Chain, Layer, Step, policy};

#[test]
fn contents_of_a_symlinked_parent_go_to_its_target() {
    let base = Layer::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o751)
        .file("usr/lib/libc.so", 0o644, b"c")
        .file("usr/lib/old.so", 0o644, b"old")
        .dir("usr/lib/x86", 0o755)
        .file("usr/lib/x86/kept", 0o644, b"")
        .symlink("lib", "usr/lib")
        .symlink("lib64", "/lib");
    let top = Layer::new()
        .file("lib/foo.so", 0o644, b"foo")
        .file("lib/.wh.old.so", 0o644, b"")
        .file("lib64/x86/bar.so", 0o644, b"bar")
        .file("lib/x86/.wh.kept", 0o644, b"")
        .hardlink("alias", "lib64/foo.so");
    let chain = Chain::new(&[base, top]);
    chain.assert_has(&[
        "/lib symlink 0777 -> usr/lib",
        "/lib64 symlink 0777 -> /lib",
        "/usr/lib dir 0751",
        "/usr/lib/libc.so file 0644 1",
        "/alias file 0644 3",
        "/usr/lib/foo.so file 0644 3 = /alias",
        "/usr/lib/x86/bar.so file 0644 3",
    ]);
    chain.assert_lacks(&["/usr/lib/old.so", "/usr/lib/x86/kept"]);
}

#[test]
fn an_opaque_mark_follows_a_symlinked_parent() {
    let base = Layer::new()
        .dir("d", 0o755)
        .file("d/old", 0o644, b"")
        .symlink("l", "d");
    let top = Layer::new()
        .file("l/.wh..wh..opq", 0o644, b"")
        .file("l/new", 0o644, b"");
    let chain = Chain::new(&[base, top]);
    chain.assert_has(&["/l symlink 0777 -> d", "/d/new file 0644 0"]);
    chain.assert_lacks(&["/d/old"]);
}

#[test]
fn implied_parents_keep_the_lower_metadata() {
    let base = Layer::new()
        .pax("mtime", b"77.5")
        .dir(".", 0o711)
        .pax("mtime", b"99.25")
        .pax("SCHILY.xattr.user.kept", b"yes")
        .dir("tmp", 0o1777)
        .dir("closed", 0o555);
    let top = Layer::new()
        .file("tmp/x", 0o644, b"")
        .file("closed/y", 0o644, b"")
        .file("a/b/c", 0o644, b"");
    let chain = Chain::new(&[base, top]);
    chain.assert_has(&[
        "/ dir 0711 77.500000000",
        "/tmp dir 1777 99.250000000 user.kept=yes",
        "/closed dir 0555",
        "/closed/y file 0644 0",
        "/a/b dir 0755",
    ]);
}

#[test]
fn hard_links_reach_files_of_lower_layers() {
    let base = Layer::new()
        .dir("bin", 0o755)
        .pax("mtime", b"5.5")
        .file("bin/tool", 0o4755, b"tool")
        .file("bin/other", 0o755, b"other")
        .symlink("sbin", "bin")
        .symlink("link", "nowhere");
    let middle = Layer::new().file("unrelated", 0o644, b"");
    let top = Layer::new()
        .hardlink("other/name", "bin/tool")
        .hardlink("third", "other/name")
        .hardlink("through", "sbin/other")
        .hardlink("same-link", "/link")
        .file("bin/tool", 0o755, b"replaced later");
    let chain = Chain::new(&[base.clone(), middle.clone(), top]);
    chain.assert_has(&[
        "/bin/tool file 0755 14",
        "/other/name file 4755 5.500000000 4",
        "/third file 4755 5.500000000 4 = /other/name",
        "/through file 0755 5 = /bin/other",
        "/same-link symlink 0777 -> nowhere = /link",
    ]);
    // Without the replacement all names are one file, as Docker would have it.
    let chain = Chain::new(&[base, middle, Layer::new().hardlink("second", "bin/tool")]);
    chain.assert_has(&["/second file 4755 5.500000000 4 = /bin/tool"]);
}

#[test]
fn a_whiteout_beside_its_re_creation_leaves_the_new_thing() {
    let base = Layer::new()
        .dir("d", 0o700)
        .file("d/old", 0o644, b"")
        .file("f", 0o644, b"old")
        .dir("real", 0o755)
        .symlink("s", "real");
    let orders: [Step; 4] = [
        |layer| {
            layer
                .file(".wh.d", 0, b"")
                .dir("d", 0o755)
                .file("d/new", 0o644, b"")
        },
        |layer| {
            layer
                .dir("d", 0o755)
                .file(".wh.d", 0, b"")
                .file("d/new", 0o644, b"")
        },
        |layer| {
            layer
                .dir("d", 0o755)
                .file("d/new", 0o644, b"")
                .file(".wh.d", 0, b"")
        },
        |layer| layer.file(".wh.d", 0, b"").file("d/new", 0o644, b""),
    ];
    for order in orders {
        let files: [Step; 2] = [
            |layer| {
                layer
                    .file(".wh.f", 0, b"")
                    .file("f", 0o600, b"new!")
                    .file(".wh.s", 0, b"")
            },
            |layer| {
                layer
                    .file("f", 0o600, b"new!")
                    .file(".wh.f", 0, b"")
                    .file(".wh.s", 0, b"")
            },
        ];
        for files in files {
            let top = files(order(Layer::new())).file("s/inside", 0o644, b"");
            let chain = Chain::new(&[base.clone(), top]);
            chain.assert_has(&[
                "/d dir 0755",
                "/d/new file 0644 0",
                "/f file 0600 4",
                "/s dir 0755",
                "/s/inside file 0644 0",
            ]);
            chain.assert_lacks(&["/d/old", "/real/inside"]);
        }
    }
}

#[test]
fn an_opaque_directory_in_any_order() {
    let base = Layer::new()
        .dir("d", 0o750)
        .file("d/old", 0o644, b"")
        .dir("d/sub", 0o755)
        .file("d/sub/x", 0, b"");
    let orders: [Step; 3] = [
        |layer| {
            layer
                .file("d/.wh..wh..opq", 0, b"")
                .file("d/new", 0o644, b"")
                .file("d/sub/y", 0o644, b"")
        },
        |layer| {
            layer
                .file("d/new", 0o644, b"")
                .file("d/sub/y", 0o644, b"")
                .file("d/.wh..wh..opq", 0, b"")
        },
        |layer| {
            layer
                .file("d/new", 0o644, b"")
                .file("d/.wh..wh..opq", 0, b"")
                .file("d/sub/y", 0o644, b"")
        },
    ];
    for order in orders {
        let chain = Chain::new(&[base.clone(), order(Layer::new())]);
        chain.assert_has(&["/d dir 0750", "/d/new file 0644 0", "/d/sub/y file 0644 0"]);
        chain.assert_lacks(&["/d/old", "/d/sub/x"]);
    }
}

#[test]
fn an_opaque_root_hides_everything() {
    let base = Layer::new()
        .dir("etc", 0o700)
        .file("etc/old", 0o644, b"")
        .file("file", 0o644, b"");
    let top = Layer::new()
        .file(".wh..wh..opq", 0, b"")
        .file("etc/new", 0o644, b"");
    let chain = Chain::new(&[base, top]);
    chain.assert_has(&["/etc dir 0755", "/etc/new file 0644 0"]);
    chain.assert_lacks(&["/etc/old", "/file"]);
}

#[test]
fn types_change_between_layers() {
    let base = Layer::new()
        .dir("dir", 0o755)
        .file("dir/inner", 0o644, b"")
        .file("file", 0o644, b"")
        .symlink("link", "dir");
    let top = Layer::new()
        .file("dir", 0o644, b"now a file")
        .dir("file", 0o755)
        .file("file/inner", 0o644, b"")
        .dir("link", 0o755);
    let chain = Chain::new(&[base.clone(), top]);
    chain.assert_has(&[
        "/dir file 0644 10",
        "/file dir 0755",
        "/file/inner file 0644 0",
        "/link dir 0755",
    ]);
    // Through a file of the same layer: what was below does not come back.
    let chain = Chain::new(&[base, Layer::new().file("dir", 0o644, b"").dir("dir", 0o711)]);
    chain.assert_has(&["/dir dir 0711"]);
    chain.assert_lacks(&["/dir/inner"]);
}

#[test]
fn a_link_of_the_layer_may_lead_to_lower_directories() {
    let base = Layer::new()
        .dir("opt", 0o750)
        .dir("opt/v1", 0o751)
        .symlink("vendor", "opt");
    let top = Layer::new()
        .symlink("current", "vendor/v1")
        .file("current/new", 0o644, b"")
        .file("vendor/v1/other", 0o644, b"");
    let chain = Chain::new(&[base, top]);
    chain.assert_has(&[
        "/current symlink 0777 -> vendor/v1",
        "/vendor symlink 0777 -> opt",
        "/opt dir 0750",
        "/opt/v1 dir 0751",
        "/opt/v1/new file 0644 0",
        "/opt/v1/other file 0644 0",
    ]);
}

#[test]
fn what_only_lower_layers_show_to_be_wrong_names_the_entry() {
    let base = Layer::new()
        .file("file", 0o644, b"")
        .dir("dir", 0o755)
        .symlink("loop", "pool")
        .symlink("pool", "loop")
        .symlink("tofile", "file")
        .dir("deep", 0o755)
        .dir("deep/er", 0o755)
        .symlink("jump", "deep/er");
    let cases = [
        (
            Layer::new().file("file/x", 0, b""),
            "`file/x`: its parent `file` is not a directory in the layers below",
        ),
        (
            Layer::new().file("tofile/x", 0, b""),
            "`tofile/x`: its parent `file` is not a directory in the layers below",
        ),
        (
            Layer::new().file("loop/x", 0, b""),
            "`loop/x`: more than 40 symlinks on the way to `loop`",
        ),
        (
            Layer::new().hardlink("x", "missing"),
            "`x`: its hard link target `missing` is neither",
        ),
        (
            Layer::new().hardlink("x", "dir"),
            "`x`: its hard link target `dir` is a directory",
        ),
        (
            Layer::new().symlink("up", "jump/../x").file("up/y", 0, b""),
            "`up/y`: a symlink on its way climbs with `..` out of `jump`",
        ),
    ];
    for (top, expected) in cases {
        let error = Chain::try_new(&[base.clone(), top], &policy())
            .err()
            .expect(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), smokegate_rootfs::ErrorKind::Image);
    }
}

#[test]
fn many_layers_and_deep_paths_need_few_descriptors() {
    // What most shells and services set.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let soft = rustix::process::Rlimit {
        current: Some(1024),
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, soft).unwrap();
    let deep = "d/".repeat(16);
    let base = Layer::new()
        .file(format!("{deep}x"), 0o644, b"")
        .symlink("l", &format!("{deep}.."));
    let mut layers = vec![base];
    layers.extend((0..126).map(|n| Layer::new().file(format!("{deep}{n}"), 0o644, b"")));
    layers.push(
        Layer::new()
            .file("l/y", 0o644, b"")
            .hardlink("z", &format!("{deep}x")),
    );
    let chain = Chain::new(&layers);
    let root = &chain.dirs[127];
    let found = |path: &str| root.lookup(path.as_ref(), rustix::fs::OFlags::PATH).is_ok();
    assert!(found("z") && found(&format!("{}y", "d/".repeat(15))));
}
