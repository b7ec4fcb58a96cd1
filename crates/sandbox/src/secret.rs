//! The value of a secret: bytes that no message shows.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Bytes that are not shown: there is no `Display`, and `Debug` is redacted.
///
/// It is serialised for the pod helper alone, over a socket or a memfd.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(#[serde(with = "shared_bytes")] Arc<[u8]>);

impl SecretValue {
    /// Takes over the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves: to give them to a container, or to look for them in what it writes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

mod shared_bytes {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        Vec::<u8>::deserialize(from).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted_and_the_wire_keeps_every_byte() {
        let value = SecretValue::new(b"hun\x00ter\xff2\n".to_vec());
        assert_eq!(format!("{value:?}"), "SecretValue(***)");
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<SecretValue>(&text).unwrap(), value);
    }
}
