//! `variants`: the ways of running the image, each of which must pass.

use std::time::Duration;

use regex::Regex;
use smokegate_image::Platform;

use super::container::{Container, container_advice};
use super::reader::keyed;
use super::scalar::{Egress, ExitCode, Network};
use super::span::Spanned;

keyed! {
    /// One named way of running the image. Its container keys replace those of `app`, except that `environment` is merged by name, and `probes` and `depends_on` are in addition.
    pub struct Variant [advice variant_advice] [null true] {
        /// The services of this variant, in place of all that `app` depends on; `[]` is none.
        services: Option<Vec<Spanned<String>>>,
        /// `bridge` or `shared`, for this variant.
        network: Option<Spanned<Network>>,
        /// `none` or `host`, for this variant.
        egress: Option<Spanned<Egress>>,
        /// Which platform of the image is run.
        platform: Option<Spanned<Platform>>,
        /// What must hold besides the probes.
        expect: Option<Expect>,
        +
        /// What is said of the app.
        container: Container,
    }
}

fn variant_advice(key: &str) -> Option<&'static str> {
    match key {
        "image" => Some("all variants run the image of the command line"),
        key => container_advice(key),
    }
}

keyed! {
    /// What must hold of a variant besides its probes.
    pub struct Expect {
        /// It stays healthy this long after its probes passed.
        stays_healthy: Option<Spanned<Duration>>,
        /// Patterns that no line of its log matches.
        logs_never: Option<Vec<Spanned<Regex>>>,
        /// It ends within this time after the stop signal.
        stops_within: Option<Spanned<Duration>>,
        /// It runs to completion and exits with this code.
        exit_code: Option<Spanned<ExitCode>>,
    }
}
