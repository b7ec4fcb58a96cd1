//! The Basic scheme (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

use super::credential::Secret;

/// The value of `Authorization`.
pub(crate) fn header(username: &str, password: &Secret) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{}", password.expose()));
    let mut header =
        HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is valid in a header");
    header.set_sensitive(true);
    header
}
