//! Any layers give the tree that a model of the spec's rules gives.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::layer::{Chain, Layer};

/// One entry of a layer; names come from a small set so that they collide.
#[derive(Clone, Debug)]
enum Op {
    Dir(String, u32),
    File(String, u8),
    Symlink(String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir(u32),
    File(usize),
    Symlink,
}

type Tree = BTreeMap<String, Node>;

fn remove_below(tree: &mut Tree, path: &str) {
    let start = format!("{path}/");
    tree.retain(|key, _| !key.starts_with(&start));
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// Makes the directory and its parents, unless something else is in the way.
fn imply(tree: &mut Tree, path: &str) -> bool {
    if let Some(parent) = parent(path)
        && !imply(tree, parent)
    {
        return false;
    }
    matches!(
        tree.entry(path.to_owned()).or_insert(Node::Dir(0o755)),
        Node::Dir(_)
    )
}

/// Whiteouts concern lower layers only, so they all come first (OCI image spec, layer.md, "Whiteouts").
/// Answers the index of an operation that is no valid entry.
fn apply(tree: &mut Tree, ops: &[Op]) -> Option<usize> {
    for op in ops {
        match op {
            Op::Whiteout(path) => {
                tree.remove(path);
                remove_below(tree, path);
            }
            Op::Opaque(path) => remove_below(tree, path),
            _ => {}
        }
    }
    for (index, op) in ops.iter().enumerate() {
        let (Op::Dir(path, _)
        | Op::File(path, _)
        | Op::Symlink(path)
        | Op::Whiteout(path)
        | Op::Opaque(path)) = op;
        if parent(path).is_some_and(|parent| !imply(tree, parent)) {
            return Some(index);
        }
        match op {
            Op::Dir(path, mode) => {
                tree.insert(path.clone(), Node::Dir(*mode));
            }
            Op::File(path, size) => {
                remove_below(tree, path);
                tree.insert(path.clone(), Node::File((*size).into()));
            }
            Op::Symlink(path) => {
                remove_below(tree, path);
                tree.insert(path.clone(), Node::Symlink);
            }
            Op::Whiteout(_) => {}
            Op::Opaque(path) => {
                if !imply(tree, path) {
                    return Some(index);
                }
            }
        }
    }
    None
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (path(), prop::sample::select(vec![0o700u32, 0o755, 0o1777])).prop_map(|(p, m)| Op::Dir(p, m)),
        4 => (path(), 0..9u8).prop_map(|(path, size)| Op::File(path, size)),
        1 => path().prop_map(Op::Symlink),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

fn tar(ops: &[Op]) -> Layer {
    ops.iter().fold(Layer::new(), |layer, op| match op {
        Op::Dir(path, mode) => layer.dir(path, *mode),
        Op::File(path, size) => layer.file(path, 0o644, &vec![b'x'; (*size).into()]),
        Op::Symlink(path) => layer.symlink(path, "target"),
        Op::Whiteout(path) => {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            layer.file(format!("{parent}/.wh.{name}"), 0, b"")
        }
        Op::Opaque(path) => layer.file(format!("{path}/.wh..wh..opq"), 0, b""),
    })
}

fn expected(tree: &Tree) -> Vec<String> {
    let line = |(path, node): (&String, &Node)| match node {
        Node::Dir(mode) => format!("/{path} dir {mode:04o}"),
        Node::File(size) => format!("/{path} file 0644 {size}"),
        Node::Symlink => format!("/{path} symlink 0777 -> target"),
    };
    let mut lines: Vec<String> = tree.iter().map(line).collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_join_as_the_model_says(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 0..9), 1..5)
    ) {
        let mut tree = Tree::new();
        let mut tars = Vec::new();
        for mut ops in layers {
            loop {
                let mut next = tree.clone();
                match apply(&mut next, &ops) {
                    Some(invalid) => {
                        ops.remove(invalid);
                    }
                    None => {
                        tree = next;
                        break;
                    }
                }
            }
            tars.push(tar(&ops));
        }
        let chain = Chain::new(&tars);
        let mut lines = chain.lines();
        lines.retain(|line| !line.starts_with("/ dir"));
        lines.sort();
        prop_assert_eq!(lines, expected(&tree));
    }
}
