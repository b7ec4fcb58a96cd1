//! Content addresses (OCI image spec, descriptor.md, "Digests").

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm that the OCI image spec registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which every registry supports.
    Sha256,
    /// SHA-512, optional in the spec.
    Sha512,
}

/// The digest of some bytes: `sha256:` and 64, or `sha512:` and 128 lowercase hexadecimal digits.
///
/// `Display` is never shortened; [`Digest::short`] is for people.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Hashes `bytes` with SHA-256.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Hashes everything `reader` gives with SHA-256, and counts it.
    ///
    /// # Errors
    /// What `reader` answers.
    pub fn sha256_reader(reader: &mut impl Read) -> std::io::Result<(Self, u64)> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 128 * 1024];
        let mut total = 0;
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok((hasher.finish(), total));
            }
            hasher.update(&buffer[..count]);
            total += count as u64;
        }
    }

    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The algorithm and the first twelve digits, for messages where the whole is shown elsewhere.
    pub fn short(&self) -> String {
        format!("{}:{}", self.algorithm, &self.hex[..12])
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string that is not a digest smokegate can verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sha256 or sha512 digest")]
pub struct ParseDigestError(pub String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseDigestError(text.chars().take(160).collect());
        let (algorithm, hex) = text.split_once(':').ok_or_else(refused)?;
        let (algorithm, length) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(refused()),
        };
        let lowercase_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != length || !hex.bytes().all(lowercase_hex) {
            return Err(refused());
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running hash.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Starts a hash of no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => encode(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => encode(Algorithm::Sha512, &state.finalize()),
        }
    }
}

fn encode(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let hex = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect();
    Digest { algorithm, hex }
}

macro_rules! named_digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

named_digest! {
    /// Names a layer's bytes as stored and pushed, compressed or not.
    LayerDigest
}
named_digest! {
    /// Names a layer's uncompressed tar stream (OCI image spec, config.md, "Layer DiffID").
    DiffId
}
named_digest! {
    /// Names a layer applied on all layers below it (OCI image spec, config.md, "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The id of `layer` on `below`: the layer's own DiffID where nothing is below, else the hash of both.
    pub fn new(below: Option<&ChainId>, layer: &DiffId) -> Self {
        match below {
            None => Self(layer.0.clone()),
            Some(below) => Self(Digest::sha256(format!("{below} {layer}").as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_known_bytes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::sha256(b""));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let upper = format!("sha256:{}", "A".repeat(64));
        let long = format!("sha256:{}", "a".repeat(65));
        for text in [
            "",
            "sha256",
            "sha256:",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &upper,
            &long,
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_id_of_first_layer_is_its_diff_id() {
        let base = DiffId(Digest::sha256(b"a"));
        let chain = ChainId::new(None, &base);
        assert_eq!(chain.0, base.0);
        let next = ChainId::new(Some(&chain), &DiffId(Digest::sha256(b"b")));
        let text = format!("{} {}", Digest::sha256(b"a"), Digest::sha256(b"b"));
        assert_eq!(next.0, Digest::sha256(text.as_bytes()));
    }
}
