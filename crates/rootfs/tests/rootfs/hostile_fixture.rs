//! Hostile layers as text, fixtures/hostile/*.txt: raw tar headers, of which nothing is put right.
//! The notation is in fixtures/README.md.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use smokegate_rootfs::Limits;

/// What one fixture says.
pub(crate) struct HostileFixture {
    pub(crate) name: String,
    /// Of its first line: what must come of it.
    pub(crate) outcome: String,
    /// Of its second line, where another outcome is right for who may not make devices.
    pub(crate) unprivileged: Option<String>,
    pub(crate) layers: Vec<HostileLayer>,
    pub(crate) limits: Limits,
    pub(crate) image_limits: smokegate_image::Limits,
}

/// One layer: its tar stream, and the bytes it is stored as.
#[derive(Default)]
pub(crate) struct HostileLayer {
    pub(crate) tar: Vec<u8>,
    pub(crate) stored: Vec<u8>,
    packing: String,
    behind: Vec<u8>,
    pax: Vec<u8>,
    open_end: bool,
}

/// Where they are: beside the crates, or where a run as another user was given a copy.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os("SMOKEGATE_HOSTILE_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hostile"),
        PathBuf::from,
    )
}

/// All fixtures by name. `canary` is the path that `{canary}` stands for.
pub(crate) fn all(canary: &Path) -> Vec<HostileFixture> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let load = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        HostileFixture::parse(&name, &std::fs::read_to_string(path).unwrap(), canary)
            .unwrap_or_else(|problem| panic!("{name}: {problem}"))
    };
    paths.iter().map(load).collect()
}

impl HostileFixture {
    fn parse(name: &str, text: &str, canary: &Path) -> Result<Self, String> {
        let mut lines = text.lines();
        let outcome = lines.next().and_then(|line| line.strip_prefix("# "));
        let outcome = outcome.ok_or("its first line is no outcome")?.to_owned();
        let unprivileged = text
            .lines()
            .find_map(|line| line.strip_prefix("# unprivileged: "))
            .map(str::to_owned);
        let mut fixture = Self {
            name: name.to_owned(),
            outcome,
            unprivileged,
            layers: vec![HostileLayer::default()],
            limits: Limits::default(),
            image_limits: smokegate_image::Limits::default(),
        };
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let line = line.replace("{canary}", canary.to_str().ok_or("the canary's path")?);
            fixture
                .line(&line)
                .map_err(|problem| format!("`{line}`: {problem}"))?;
        }
        for layer in &mut fixture.layers {
            layer.close();
        }
        Ok(fixture)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "limit" => return self.limit(rest),
            "repeat" => {
                let (count, line) = rest.split_once(' ').ok_or("nothing to repeat")?;
                for index in 0..number(count)? {
                    self.line(&line.replace("{#}", &index.to_string()))?;
                }
                return Ok(());
            }
            "layer" => {
                let layer = HostileLayer {
                    packing: rest.to_owned(),
                    ..HostileLayer::default()
                };
                match self.layers.as_mut_slice() {
                    [only] if only.tar.is_empty() => *only = layer,
                    _ => self.layers.push(layer),
                }
                return Ok(());
            }
            _ => {}
        }
        let layer = self.layers.last_mut().ok_or("no layer")?;
        let words: Vec<Vec<u8>> = rest.split(' ').map(bytes).collect::<Result<_, _>>()?;
        match word {
            "entry" => layer.entry(rest)?,
            "pax" => {
                let [key, value] = words.as_slice() else {
                    return Err("not a key and a value".to_owned());
                };
                layer.pax.extend(record(key, value));
            }
            "pax-end" => {
                let pax = std::mem::take(&mut layer.pax);
                layer.extension(b'x', &pax);
            }
            "pax-raw" => layer.pax.extend(&words[0]),
            "global" => {
                let [key, value] = words.as_slice() else {
                    return Err("not a key and a value".to_owned());
                };
                layer.extension(b'g', &record(key, value));
            }
            "long-name" => layer.extension(b'L', &words[0]),
            "long-link" => layer.extension(b'K', &words[0]),
            "bytes" => layer.tar.extend(&words[0]),
            "behind" => layer.behind.clone_from(&words[0]),
            "cut" => {
                let left = layer.tar.len().checked_sub(number(rest)? as usize);
                layer.tar.truncate(left.ok_or("more than there is")?);
                layer.open_end = true;
            }
            "open-end" => layer.open_end = true,
            _ => return Err("unknown keyword".to_owned()),
        }
        Ok(())
    }

    fn limit(&mut self, rest: &str) -> Result<(), String> {
        let (name, value) = rest.split_once(' ').ok_or("no value")?;
        let value = number(value)?;
        let place = match name {
            "entries" => &mut self.limits.entries,
            "total_bytes" => &mut self.limits.total_bytes,
            "file_bytes" => &mut self.limits.file_bytes,
            "path_bytes" => &mut self.limits.path_bytes,
            "path_depth" => &mut self.limits.path_depth,
            "header_bytes" => &mut self.limits.header_bytes,
            "xattr_bytes" => &mut self.limits.xattr_bytes,
            "layer_bytes" => &mut self.image_limits.layer_bytes,
            "layer_ratio" => &mut self.image_limits.layer_ratio,
            "ratio_grace" => &mut self.image_limits.ratio_grace,
            _ => return Err("unknown limit".to_owned()),
        };
        *place = value;
        Ok(())
    }
}

impl HostileLayer {
    /// `TYPE NAME [FIELD=VALUE]…`
    fn entry(&mut self, text: &str) -> Result<(), String> {
        let mut words = text.split(' ');
        let kind = bytes(words.next().unwrap_or_default())?;
        let name = bytes(words.next().ok_or("no name")?)?;
        let mut fields = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or("a field without `=`")?;
            fields.insert(key, value);
        }
        let mut take = |key| fields.remove(key);
        let link = bytes(take("link").unwrap_or_default())?;
        let data = bytes(take("data").unwrap_or_default())?;
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self.extension(b'x', &pax);
        }
        let mut block = [0; 512];
        put(&mut block[..100], &name);
        put(&mut block[157..257], &link);
        block[156] = *kind.first().ok_or("no type")?;
        match take("magic") {
            None => block[257..265].copy_from_slice(b"ustar\x0000"),
            Some("gnu") => block[257..265].copy_from_slice(b"ustar  \0"),
            Some("old") => {}
            Some(_) => return Err("unknown magic".to_owned()),
        }
        let octal = |value: &str| u64::from_str_radix(value, 8).map_err(|error| error.to_string());
        let mut numeric = |place: std::ops::Range<usize>, text: Option<&str>, default: u64| {
            let text = text.unwrap_or_default();
            if let Some(raw) = text.strip_prefix("raw:") {
                put(&mut block[place], &bytes(raw)?);
                return Ok::<_, String>(());
            }
            let value = match text {
                "" => default,
                text if place.start == 100 => octal(text)?,
                text => number(text)?,
            };
            let digits = format!("{value:0width$o}", width = place.len() - 1);
            if digits.len() < place.len() {
                put(&mut block[place], digits.as_bytes());
            } else {
                // GNU's base 256.
                block[place.start] = 0x80;
                block[place.end - 8..place.end].copy_from_slice(&value.to_be_bytes());
                block[place.start] |= 0x80;
            }
            Ok(())
        };
        numeric(
            100..108,
            take("mode"),
            if kind == b"5" { 0o755 } else { 0o644 },
        )?;
        numeric(108..116, take("uid"), 0)?;
        numeric(116..124, take("gid"), 0)?;
        numeric(124..136, take("size"), data.len() as u64)?;
        numeric(136..148, take("mtime"), 0)?;
        numeric(329..337, take("major"), 0)?;
        numeric(337..345, take("minor"), 0)?;
        if let Some(prefix) = take("prefix") {
            put(&mut block[345..500], &bytes(prefix)?);
        }
        let mut more = Vec::new();
        if let Some(sparse) = take("sparse") {
            more = old_sparse(&mut block, sparse)?;
        }
        match take("checksum") {
            Some(raw) => put(&mut block[148..156], &bytes(raw)?),
            None => sum(&mut block),
        }
        if let Some(unknown) = fields.keys().next() {
            return Err(format!("unknown field `{unknown}`"));
        }
        self.tar.extend(block);
        self.tar.extend(more);
        self.padded(&data);
        Ok(())
    }

    fn padded(&mut self, data: &[u8]) {
        self.tar.extend(data);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    fn extension(&mut self, kind: u8, data: &[u8]) {
        let mut block = [0; 512];
        put(&mut block[..100], b"extension");
        block[156] = kind;
        put(
            &mut block[124..136],
            format!("{:011o}", data.len()).as_bytes(),
        );
        block[257..265].copy_from_slice(b"ustar\x0000");
        sum(&mut block);
        self.tar.extend(block);
        self.padded(data);
    }

    fn close(&mut self) {
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self.extension(b'x', &pax);
        }
        if !self.open_end {
            self.tar.extend([0; 1024]);
        }
        self.stored = match self.packing.as_str() {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(&self.tar).unwrap();
                encoder.finish().unwrap()
            }
            "zstd" => zstd::bulk::compress(&self.tar, 1).unwrap(),
            _ => self.tar.clone(),
        };
        self.stored.append(&mut self.behind);
    }
}

/// `REAL:OFFSET+LENGTH,…`; pieces beyond the fourth go to further blocks, which are answered.
fn old_sparse(block: &mut [u8; 512], text: &str) -> Result<Vec<u8>, String> {
    let (real, pieces) = text.split_once(':').ok_or("no real size")?;
    let real = format!("{:011o}", number(real)?);
    // More than the field's 11 digits hold, as GNU tar writes it.
    if real.len() > 11 {
        let value = u64::from_str_radix(&real, 8).map_err(|error| error.to_string())?;
        block[483] = 0x80;
        block[487..495].copy_from_slice(&value.to_be_bytes());
    } else {
        put(&mut block[483..495], real.as_bytes());
    }
    let mut fields = Vec::new();
    for piece in pieces.split(',').filter(|piece| !piece.is_empty()) {
        let (offset, length) = piece.split_once('+').ok_or("not a piece")?;
        for value in [offset, length] {
            let digits = format!("{:011o}\0", number(value)?);
            fields.extend(digits.as_bytes().get(..12).ok_or("too large")?);
        }
    }
    let first = fields.len().min(96);
    block[386..386 + first].copy_from_slice(&fields[..first]);
    block[482] = u8::from(fields.len() > first);
    let mut more = Vec::new();
    let mut chunks = fields[first..].chunks(504).peekable();
    while let Some(chunk) = chunks.next() {
        more.extend(chunk);
        more.resize(more.len().next_multiple_of(512), 0);
        let flag = more.len() - 8;
        more[flag] = u8::from(chunks.peek().is_some());
    }
    Ok(more)
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A PAX record with its length.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &body].concat()
}

/// A decimal number with an optional K, M, G or T.
fn number(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let value: u64 = digits
        .parse()
        .map_err(|error| format!("`{text}`: {error}"))?;
    Ok(value << shift)
}

/// Bytes of one word: `\n`, `\t`, `\s` (a space), `\\` and `\xNN` are escapes, `{TEXT*COUNT}` repeats.
fn bytes(word: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        match char {
            '\\' => {
                let escape = rest.chars().next().ok_or("`\\` at the end")?;
                rest = &rest[escape.len_utf8()..];
                match escape {
                    'n' => out.push(b'\n'),
                    't' => out.push(b'\t'),
                    's' => out.push(b' '),
                    '\\' => out.push(b'\\'),
                    'x' => {
                        let digits = rest.get(..2).ok_or("`\\x` without two digits")?;
                        let byte = u8::from_str_radix(digits, 16);
                        out.push(byte.map_err(|error| error.to_string())?);
                        rest = &rest[2..];
                    }
                    _ => return Err(format!("unknown escape `\\{escape}`")),
                }
            }
            '{' => {
                let (inner, after) = rest.split_once('}').ok_or("`{` without `}`")?;
                let (text, count) = inner.rsplit_once('*').ok_or("`{…}` without `*`")?;
                let count = number(count)?;
                let text = bytes(text)?;
                for _ in 0..count {
                    out.extend(&text);
                }
                rest = after;
            }
            char => out.extend(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(out)
}
