//! The gate file as a tree of values with their places: aliases resolved, merge keys applied, keys unique.
//!
//! Built from the parser's events, as a document with a mistake must still give the rest of its mistakes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::diagnostic::Source;
use super::reader::Problem;
use super::span::{Span, Spanned};

/// How many values a file may hold, those that aliases repeat counted each time.
const MAX_VALUES: usize = 10_000;
/// How deep values may lie within each other, aliases included.
const MAX_DEPTH: usize = 64;
/// YAML's own tags; all others mean nothing here.
const CORE_TAG: &str = "tag:yaml.org,2002:";

/// A value.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// Values in it and itself, and how deep they lie.
    values: usize,
    depth: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Pair>),
}

/// Text; `plain` where neither quotes nor a block mark it as text and nothing else.
#[derive(Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: Spanned<String>,
    pub(crate) value: Rc<Node>,
}

impl Node {
    fn new(span: Span, kind: Kind) -> Self {
        let (values, depth) = match &kind {
            Kind::Scalar(_) => (0, 0),
            Kind::Sequence(items) => weigh(items.iter()),
            Kind::Mapping(pairs) => weigh(pairs.iter().map(|pair| &pair.value)),
        };
        Self {
            span,
            kind,
            values: values + 1,
            depth: depth + 1,
        }
    }

    /// YAML's null: nothing, `~` or the word.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.plain
            && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What kind of value it is, in a message.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(_) if self.is_null() => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

fn weigh<'a>(children: impl Iterator<Item = &'a Rc<Node>>) -> (usize, usize) {
    children.fold((0, 0), |(values, depth), child| {
        (values.saturating_add(child.values), depth.max(child.depth))
    })
}

/// A collection whose end was not seen yet.
struct Open {
    span: Span,
    anchor: usize,
    items: Vec<Rc<Node>>,
    /// In a mapping: keys and values so far, and the key that waits for its value.
    pairs: Option<Vec<Pair>>,
    key: Option<Spanned<String>>,
    seen: HashMap<String, Span>,
    /// What `<<` brings in.
    merged: Vec<Rc<Node>>,
    merging: bool,
    /// In a mapping, the next node is a key.
    at_key: bool,
}

/// Builds the tree. `None` where the text is not YAML; what else is wrong is added to `problems`.
pub(crate) fn load(source: &Source, problems: &mut Vec<Problem>) -> Option<Rc<Node>> {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut loader = Loader {
        source,
        problems,
        open: Vec::new(),
        anchors: HashMap::new(),
        total: 0,
        root: None,
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(source.text(), options) {
        let (event, span) = match event {
            Ok((event, span)) => (event, span),
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or_default();
                loader.broken(at, &error.info());
                return None;
            }
        };
        let tagged = span.tag_span();
        let span = bytes(&span);
        match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    let hint = "keep what is above the second `---` only";
                    loader.problem(span, "a gate file is one YAML document", Some(hint));
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = loader.check_tag(tag.as_ref(), tagged.as_ref().map(bytes));
                let plain = style == ScalarStyle::Plain && !is_text;
                // The parser's word for a value that is not there.
                let text = if span.start == span.end && plain {
                    Cow::Borrowed("")
                } else {
                    text
                };
                loader.scalar(text.into_owned(), plain, span, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                loader.check_tag(tag.as_ref(), tagged.as_ref().map(bytes));
                loader.begin(span, anchor, false);
            }
            Event::MappingStart(_, anchor, tag) => {
                loader.check_tag(tag.as_ref(), tagged.as_ref().map(bytes));
                loader.begin(span, anchor, true);
            }
            Event::SequenceEnd | Event::MappingEnd => loader.end(span)?,
            Event::Alias(anchor) => loader.alias(anchor, span)?,
            Event::UnresolvedAlias(name) => {
                let message = format!("there is no anchor `&{name}` above this alias");
                loader.problem(
                    span,
                    &message,
                    Some("quote the value if it is meant to be text"),
                );
                loader.nothing();
            }
            _ => {}
        }
    }
    loader.root
}

fn bytes(span: &granit_parser::Span) -> Span {
    let range = span.byte_range().unwrap_or_default();
    Span {
        start: range.start,
        end: range.end,
    }
}

struct Loader<'a> {
    source: &'a Source,
    problems: &'a mut Vec<Problem>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    /// Values made so far, repeated ones included.
    total: usize,
    root: Option<Rc<Node>>,
}

impl Loader<'_> {
    fn problem(&mut self, span: Span, message: &str, hint: Option<&str>) {
        self.problems.push(Problem::new(span, message, hint));
    }

    /// A document that is not YAML ends here; the usual reasons get a hint.
    fn broken(&mut self, at: usize, info: &str) {
        let text = self.source.text();
        let line_start = text
            .get(..at)
            .and_then(|t| t.rfind('\n'))
            .map_or(0, |at| at + 1);
        let line = text
            .get(line_start..)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        let character = text.get(at..).and_then(|rest| rest.chars().next());
        let hint = match character {
            Some('\t') => Some("indent with spaces; YAML allows no tabs there"),
            _ if line
                .chars()
                .take_while(|c| c.is_whitespace())
                .any(|c| c == '\t') =>
            {
                Some("indent with spaces; YAML allows no tabs there")
            }
            Some('@' | '`' | '%') => Some("quote a value that begins with this character"),
            Some('"' | '\'') => Some("end the value with the same quote"),
            _ if line.contains("${") => Some("quote a value with `${` in it: \"…${NAME}…\""),
            _ if line.matches(": ").count() > 1 => Some("quote a value with `: ` in it"),
            _ => None,
        };
        let end = at + character.map_or(0, char::len_utf8);
        self.problem(
            Span { start: at, end },
            &format!("this is not YAML: {info}"),
            hint,
        );
    }

    /// Whether the tag says that the value is text.
    fn check_tag(&mut self, tag: Option<&Cow<'_, Tag>>, span: Option<Span>) -> bool {
        let Some(tag) = tag else { return false };
        let known = tag.handle() == CORE_TAG
            && matches!(
                tag.suffix(),
                "str" | "int" | "float" | "bool" | "null" | "map" | "seq"
            );
        if !known {
            let message = format!(
                "the tag `{}{}` means nothing here",
                tag.original_handle(),
                tag.suffix()
            );
            self.problem(span.unwrap_or_default(), &message, Some("remove it"));
        }
        known && tag.suffix() == "str"
    }

    fn scalar(&mut self, text: String, plain: bool, span: Span, anchor: usize) -> Option<()> {
        let node = Node::new(span, Kind::Scalar(Scalar { text, plain }));
        self.add(Rc::new(node), span, anchor)
    }

    /// Stands where a node would, when what is wrong with it was said.
    fn nothing(&mut self) {
        if let Some(open) = self.open.last_mut().filter(|open| open.pairs.is_some()) {
            open.at_key = !open.at_key;
            open.key = None;
            open.merging = false;
        }
    }

    fn begin(&mut self, span: Span, anchor: usize, mapping: bool) {
        self.open.push(Open {
            span,
            anchor,
            items: Vec::new(),
            pairs: mapping.then(Vec::new),
            key: None,
            seen: HashMap::new(),
            merged: Vec::new(),
            merging: false,
            at_key: mapping,
        });
    }

    fn end(&mut self, end: Span) -> Option<()> {
        let mut open = self.open.pop()?;
        let span = Span {
            start: open.span.start,
            end: end.end,
        };
        let kind = match open.pairs.take() {
            None => Kind::Sequence(open.items),
            Some(mut pairs) => {
                self.merge(&mut pairs, &open.merged);
                Kind::Mapping(pairs)
            }
        };
        self.add(Rc::new(Node::new(span, kind)), span, open.anchor)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Option<()> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            self.problem(span, "this alias stands within the value it repeats", None);
            self.nothing();
            return Some(());
        };
        self.add(node, span, 0)
    }

    /// Puts a finished node where it belongs. `None` ends the reading: the file is too much.
    fn add(&mut self, node: Rc<Node>, place: Span, anchor: usize) -> Option<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        // A collection's children were counted when they came; only an alias brings new ones at once.
        self.total = self
            .total
            .saturating_add(if place == node.span { 1 } else { node.values });
        if self.total > MAX_VALUES || node.values > MAX_VALUES {
            let message = format!("this makes more than {MAX_VALUES} values of the file");
            self.problem(place, &message, Some("aliases that hold aliases multiply"));
            return None;
        }
        if node.depth + self.open.len() > MAX_DEPTH {
            let message = format!("values lie more than {MAX_DEPTH} deep in each other here");
            self.problem(place, &message, None);
            return None;
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        let Some(pairs) = &mut open.pairs else {
            open.items.push(node);
            return Some(());
        };
        if open.at_key {
            open.at_key = false;
            open.key = None;
            let Kind::Scalar(scalar) = &node.kind else {
                self.problem(place, "a key must be a single word", None);
                return Some(());
            };
            open.merging = scalar.plain && scalar.text == "<<";
            if !open.merging {
                open.key = Some(Spanned {
                    value: scalar.text.clone(),
                    span: place,
                });
            }
            return Some(());
        }
        open.at_key = true;
        if open.merging {
            open.merged.push(node);
            return Some(());
        }
        let Some(key) = open.key.take() else {
            return Some(());
        };
        if let Some(first) = open.seen.insert(key.value.clone(), key.span) {
            let line = self.source.line(first);
            let message = format!("`{}` is there twice", key.value);
            let hint = format!("the first one is on line {line}; keep one of them");
            self.problem(key.span, &message, Some(&hint));
            return Some(());
        }
        // A value that is not there is shown by its key.
        let value = if place.start == place.end {
            Rc::new(Node::new(
                key.span,
                Kind::Scalar(Scalar {
                    text: String::new(),
                    plain: true,
                }),
            ))
        } else {
            node
        };
        pairs.push(Pair { key, value });
        Some(())
    }

    /// YAML's merge keys: what the mapping says itself wins, then what was merged first.
    fn merge(&mut self, pairs: &mut Vec<Pair>, merged: &[Rc<Node>]) {
        let mut known: HashSet<String> = pairs.iter().map(|pair| pair.key.value.clone()).collect();
        for node in merged {
            let from: &[Rc<Node>] = match &node.kind {
                Kind::Sequence(items) => items,
                _ => std::slice::from_ref(node),
            };
            for node in from {
                let Kind::Mapping(more) = &node.kind else {
                    let message = format!("`<<` merges mappings, and this is {}", node.describe());
                    self.problem(
                        node.span,
                        &message,
                        Some("write `<<: *NAME` with the anchor of a mapping"),
                    );
                    continue;
                };
                for pair in more {
                    if known.insert(pair.key.value.clone()) {
                        pairs.push(pair.clone());
                    }
                }
            }
        }
    }
}
