//! Images as text: the notation of `fixtures/images/*.txt`, which `fixtures/README.md` explains.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::elf_file::elf_file;

/// An image as a fixture describes it; [`ImageFixture::build`] makes the bytes.
#[derive(Clone, Debug)]
pub struct ImageFixture {
    /// `os/architecture[/variant]`, the host's where the fixture names none.
    pub platform: String,
    /// The `config` object of the image configuration (OCI image spec, config.md).
    pub config: Map<String, Value>,
    /// What [`crate::debian_image()`] puts beneath the layers: mmdebstrap's variant, then packages with commas.
    pub debian: Option<String>,
    /// Bottom layer first.
    pub layers: Vec<LayerFixture>,
}

/// One layer of a fixture.
#[derive(Clone, Debug)]
pub struct LayerFixture {
    /// How the blob is compressed.
    pub packing: Packing,
    /// What is in it.
    pub content: LayerContent,
}

/// Where a layer's tar stream comes from.
#[derive(Clone, Debug)]
pub enum LayerContent {
    /// Entries in the order they stand in the tar.
    Entries(Vec<Entry>),
    /// A tar file made elsewhere, taken byte for byte.
    Tar(PathBuf),
}

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One gzip member, quickly made.
    Gzip,
    /// One gzip member at zlib's default level, which most tools use.
    GzipDefault,
    /// Several gzip members one after another, as pigz and stargz write.
    GzipMulti,
    /// One zstd frame, quickly made.
    Zstd,
    /// One zstd frame at the default level.
    ZstdDefault,
    /// The tar itself.
    Plain,
}

/// One tar entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name as it stands in the tar, without the leading slash.
    pub name: String,
    /// Type and content.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
}

/// Type and content of a tar entry.
#[derive(Clone, Debug)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileContent),
    /// A symbolic link to this target.
    Symlink(String),
    /// A hard link to this entry.
    Hardlink(String),
    /// A named pipe.
    Fifo,
    /// A character device with major and minor number.
    CharDevice(u32, u32),
}

/// The bytes of a regular file.
#[derive(Clone, Debug)]
pub enum FileContent {
    /// These.
    Text(Vec<u8>),
    /// A file of the host.
    HostFile(PathBuf),
    /// So many bytes of incompressible noise that depends on the seed only.
    Random {
        /// Length in bytes.
        size: u64,
        /// Where the noise starts.
        seed: u64,
    },
    /// So many zero bytes.
    Zeros(u64),
}

/// A line of a fixture that does not follow the notation.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}: `{text}`")]
pub struct ParseFixtureError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
    /// The line itself.
    pub text: String,
}

/// `fixtures/images` of this repository.
pub fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

impl ImageFixture {
    /// Reads `fixtures/images/NAME.txt`.
    ///
    /// # Panics
    /// When there is no such fixture or it does not parse.
    pub fn load(name: &str) -> Self {
        let path = fixture_dir().join(name).with_extension("txt");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("reading fixture `{}`: {error}", path.display()));
        Self::parse(&text).unwrap_or_else(|error| panic!("fixture `{name}`: {error}"))
    }

    /// Parses the notation.
    ///
    /// # Errors
    /// The first line that does not follow it.
    pub fn parse(text: &str) -> Result<Self, ParseFixtureError> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut fixture = Self {
            platform: format!("linux/{architecture}"),
            config: Map::new(),
            debian: None,
            layers: Vec::new(),
        };
        for (index, raw) in text.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = match fixture.layers.last_mut() {
                _ if line == "layer" || line.starts_with("layer ") => {
                    packing(line).map(|packing| {
                        let content = LayerContent::Entries(Vec::new());
                        fixture.layers.push(LayerFixture { packing, content });
                    })
                }
                Some(LayerFixture {
                    content: LayerContent::Entries(entries),
                    ..
                }) => entry(line).map(|entry| entries.push(entry)),
                _ => fixture.config_line(line),
            };
            parsed.map_err(|problem| ParseFixtureError {
                line: index + 1,
                problem,
                text: line.to_owned(),
            })?;
        }
        Ok(fixture)
    }

    /// The same image for another platform, `os/architecture[/variant]`.
    #[must_use]
    pub fn for_platform(mut self, platform: &str) -> Self {
        self.platform = platform.to_owned();
        self
    }

    /// Puts a layer made from the tar file `path` beneath all others.
    #[must_use]
    pub fn on_base_tar(mut self, path: &Path, packing: Packing) -> Self {
        let content = LayerContent::Tar(path.to_owned());
        self.layers.insert(0, LayerFixture { packing, content });
        self
    }

    fn config_line(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = line
            .split_once(':')
            .ok_or("neither `key: value` nor `layer`")?;
        let value = value.trim();
        let mut add_to = |name: &str, key: &str| {
            let object = self.config.entry(name).or_insert_with(|| json!({}));
            object[key] = json!({});
        };
        match key {
            "platform" => self.platform = value.to_owned(),
            "debian" => self.debian = Some(value.to_owned()),
            "entrypoint" => _ = self.config.insert("Entrypoint".into(), words(value)?),
            "cmd" => _ = self.config.insert("Cmd".into(), words(value)?),
            "user" => _ = self.config.insert("User".into(), json!(value)),
            "workdir" => _ = self.config.insert("WorkingDir".into(), json!(value)),
            "stopsignal" => _ = self.config.insert("StopSignal".into(), json!(value)),
            "healthcheck" => {
                _ = self
                    .config
                    .insert("Healthcheck".into(), healthcheck(value)?)
            }
            "expose" => add_to("ExposedPorts", value),
            "volume" => add_to("Volumes", value),
            "env" => {
                let list = self.config.entry("Env").or_insert_with(|| json!([]));
                list.as_array_mut()
                    .expect("inserted as a list")
                    .push(json!(value));
            }
            "label" => {
                let (name, text) = value.split_once('=').ok_or("no `=` in the label")?;
                let object = self.config.entry("Labels").or_insert_with(|| json!({}));
                object[name] = json!(text);
            }
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }
}

/// A command: a JSON array where an argument holds spaces, else words.
fn words(text: &str) -> Result<Value, String> {
    if text.starts_with('[') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    Ok(text.split_whitespace().collect())
}

/// A HEALTHCHECK as a Dockerfile writes it.
fn healthcheck(text: &str) -> Result<Value, String> {
    let mut object = Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(' ')
            .ok_or("no command after the options")?;
        let (name, value) = option.split_once('=').ok_or("an option without `=`")?;
        let (name, value) = match name {
            "interval" => ("Interval", nanoseconds(value)?),
            "timeout" => ("Timeout", nanoseconds(value)?),
            "start-period" => ("StartPeriod", nanoseconds(value)?),
            "retries" => ("Retries", number(value)?.into()),
            _ => return Err(format!("unknown option `--{name}`")),
        };
        object.insert(name.into(), value);
        rest = after.trim_start();
    }
    let test = match rest.split_once(' ') {
        None if rest == "NONE" => json!(["NONE"]),
        Some(("CMD", command)) if command.starts_with('[') => {
            let mut test = words(command)?;
            test.as_array_mut()
                .ok_or("not a list")?
                .insert(0, json!("CMD"));
            test
        }
        Some(("CMD", _)) => words(rest)?,
        Some(("CMD-SHELL", command)) => json!(["CMD-SHELL", command]),
        _ => return Err("neither `NONE`, `CMD …` nor `CMD-SHELL …`".to_owned()),
    };
    object.insert("Test".into(), test);
    Ok(object.into())
}

fn nanoseconds(text: &str) -> Result<Value, String> {
    let refused = || format!("`{text}` is no duration like `500ms` or `2s`");
    let duration = match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().map_err(|_| refused())?),
        None => {
            let seconds = text.strip_suffix('s').ok_or_else(refused)?;
            Duration::from_secs(seconds.parse().map_err(|_| refused())?)
        }
    };
    u64::try_from(duration.as_nanos())
        .map(Value::from)
        .map_err(|_| refused())
}

fn packing(line: &str) -> Result<Packing, String> {
    match line["layer".len()..].trim() {
        "" | "gzip" => Ok(Packing::Gzip),
        "gzip-multi" => Ok(Packing::GzipMulti),
        "zstd" => Ok(Packing::Zstd),
        "plain" => Ok(Packing::Plain),
        other => Err(format!("unknown packing `{other}`")),
    }
}

fn entry(line: &str) -> Result<Entry, String> {
    let (kind, rest) = line.split_once(' ').ok_or("an entry without a path")?;
    let (path, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let name = path
        .strip_prefix('/')
        .ok_or("a path that does not start with `/`")?
        .to_owned();
    let plain = |kind, mode| Entry {
        name: name.clone(),
        kind,
        mode,
        uid: 0,
        gid: 0,
    };
    match kind {
        "link" => {
            let target = rest.strip_prefix("-> ").ok_or("no `-> target`")?;
            Ok(plain(EntryKind::Symlink(target.to_owned()), 0o777))
        }
        "hardlink" => {
            let target = rest.strip_prefix("-> /").ok_or("no `-> /target`")?;
            Ok(plain(EntryKind::Hardlink(target.to_owned()), 0o644))
        }
        // Whiteouts and opaque whiteouts: OCI image spec, layer.md.
        "whiteout" => {
            let (parent, file) = name
                .rsplit_once('/')
                .map_or(("", name.as_str()), |(p, f)| (p, f));
            let slash = if parent.is_empty() { "" } else { "/" };
            let empty = EntryKind::File(FileContent::Text(Vec::new()));
            Ok(Entry {
                name: format!("{parent}{slash}.wh.{file}"),
                ..plain(empty, 0o644)
            })
        }
        "opaque" => {
            let empty = EntryKind::File(FileContent::Text(Vec::new()));
            Ok(Entry {
                name: format!("{name}/.wh..wh..opq"),
                ..plain(empty, 0o644)
            })
        }
        "dir" | "file" | "fifo" | "char" => owned_entry(kind, name, rest),
        _ => Err(format!("unknown entry type `{kind}`")),
    }
}

/// `MODE UID:GID [CONTENT]` after the path.
fn owned_entry(kind: &str, name: String, rest: &str) -> Result<Entry, String> {
    let mut fields = rest.splitn(3, ' ');
    let mode = fields.next().unwrap_or_default();
    let mode = u32::from_str_radix(mode, 8).map_err(|_| format!("`{mode}` is no octal mode"))?;
    let owner = fields.next().ok_or("no `uid:gid`")?;
    let (uid, gid) = owner.split_once(':').ok_or("no `uid:gid`")?;
    let content = fields.next();
    let kind = match kind {
        "dir" => EntryKind::Directory,
        "fifo" => EntryKind::Fifo,
        "char" => {
            let (major, minor) = content
                .and_then(|text| text.split_once(':'))
                .ok_or("no `major:minor`")?;
            EntryKind::CharDevice(number(major)? as u32, number(minor)? as u32)
        }
        _ => EntryKind::File(file_content(content.unwrap_or_default())?),
    };
    let name = if matches!(kind, EntryKind::Directory) {
        format!("{name}/")
    } else {
        name
    };
    Ok(Entry {
        name,
        kind,
        mode,
        uid: number(uid)?,
        gid: number(gid)?,
    })
}

fn file_content(text: &str) -> Result<FileContent, String> {
    if text == "@probe-target" {
        return Ok(FileContent::HostFile(crate::probe_target().to_owned()));
    }
    if let Some(words) = text.strip_prefix("@elf") {
        return elf_file(words).map(FileContent::Text);
    }
    if let Some(file) = text.strip_prefix("@origin/") {
        return Ok(FileContent::HostFile(
            fixture_dir().join("../origin").join(file),
        ));
    }
    if let Some(parameters) = text.strip_prefix("random:") {
        let (bytes, seed) = parameters.split_once(':').ok_or("not `random:SIZE:SEED`")?;
        return Ok(FileContent::Random {
            size: size(bytes)?,
            seed: number(seed)?,
        });
    }
    if let Some(bytes) = text.strip_prefix("zeros:") {
        return Ok(FileContent::Zeros(size(bytes)?));
    }
    unescape(text).map(FileContent::Text)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(match letters.next() {
                Some('n') => b'\n',
                Some('r') => b'\r',
                Some('t') => b'\t',
                Some('\\') => b'\\',
                Some('x') => {
                    let digits: String = letters.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16)
                        .map_err(|_| format!("`\\x{digits}` is no byte"))?
                }
                _ => {
                    return Err("`\\` stands before none of `n`, `r`, `t`, `x` and `\\`".to_owned());
                }
            }),
            _ => plain.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(plain)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

/// A number of bytes, with K, M or G for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    Ok(number(digits)? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_keys_make_docker_config() {
        let text = "entrypoint: /probe-target serve\n\
                    cmd: [\"a b\", \"c\"]\n\
                    env: A=1\n\
                    env: B=2\n\
                    expose: 8080/tcp\n\
                    volume: /data\n\
                    label: k=v=w\n\
                    healthcheck: --interval=500ms --retries=3 CMD /probe-target check-http 8080 /\n";
        let config = Value::from(ImageFixture::parse(text).unwrap().config);
        let expected = json!({
            "Entrypoint": ["/probe-target", "serve"],
            "Cmd": ["a b", "c"],
            "Env": ["A=1", "B=2"],
            "ExposedPorts": {"8080/tcp": {}},
            "Volumes": {"/data": {}},
            "Labels": {"k": "v=w"},
            "Healthcheck": {
                "Interval": 500_000_000,
                "Retries": 3,
                "Test": ["CMD", "/probe-target", "check-http", "8080", "/"],
            },
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn refuses_what_is_not_the_notation() {
        let cases = [
            ("entrypiont: x", "line 1: unknown key `entrypiont`"),
            ("layer lzma", "line 1: unknown packing `lzma`"),
            (
                "layer\n\nsocket /x 0644 0:0",
                "line 3: unknown entry type `socket`",
            ),
            (
                "layer\nfile x 0644 0:0",
                "line 2: a path that does not start with `/`",
            ),
            ("layer\nfile /x 0899 0:0", "line 2: `0899` is no octal mode"),
            (
                "layer\nfile /x 0644 0:0 random:5",
                "line 2: not `random:SIZE:SEED`",
            ),
            ("layer\nlink /x /y", "line 2: no `-> target`"),
            (
                "healthcheck: --interval=2 CMD x",
                "line 1: `2` is no duration",
            ),
        ];
        for (text, expected) in cases {
            let message = ImageFixture::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
