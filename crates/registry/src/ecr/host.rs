//! Hosts of Amazon ECR: which names are one, and where the API for their region is.

use std::fmt;

/// An ECR registry, recognised by its host name.
///
/// The forms are those of Amazon's own credential helper: `A.dkr.ecr.R.amazonaws.com` and its FIPS, dual-stack,
/// China, EU sovereign and isolated kin, and the two names of the public registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EcrHost {
    /// The registry of one account in one region.
    Private {
        /// Twelve digits.
        account: String,
        /// The region that its tokens are for, whatever region the caller works in.
        region: String,
        /// The host of the region's API.
        api: String,
    },
    /// `public.ecr.aws`, whose API exists in us-east-1 only.
    Public,
}

/// The host of the public registry's API.
const PUBLIC_API: &str = "api.ecr-public.us-east-1.amazonaws.com";
/// Suffixes after the region, as the API has them too.
const SUFFIXES: [&str; 7] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "sc2s.sgov.gov",
    "c2s.ic.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
];
/// Suffixes of dual-stack registries, and of their APIs.
const DUAL_STACK: [(&str, &str); 2] = [
    ("on.aws", "api.aws"),
    (
        "on.amazonwebservices.com.cn",
        "api.amazonwebservices.com.cn",
    ),
];

impl EcrHost {
    /// The ECR registry that `registry`, a host with or without a port, is; `None` for any other.
    pub(crate) fn parse(registry: &str) -> Option<Self> {
        let host = registry.strip_suffix(":443").unwrap_or(registry);
        if host == "public.ecr.aws" || host == "ecr-public.aws.com" {
            return Some(Self::Public);
        }
        let (account, rest) = host.split_once('.')?;
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (service, rest) = rest
            .strip_prefix("dkr.")
            .or_else(|| rest.strip_prefix("dkr-"))?
            .split_once('.')?;
        if !matches!(service, "ecr" | "ecr-fips") {
            return None;
        }
        let (region, suffix) = rest.split_once('.')?;
        let is_region = region
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !is_region || !region.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return None;
        }
        let api = if SUFFIXES.contains(&suffix) {
            format!("api.{service}.{region}.{suffix}")
        } else {
            let (_, api) = DUAL_STACK
                .iter()
                .find(|(registry, _)| *registry == suffix)?;
            format!("{service}.{region}.{api}")
        };
        Some(Self::Private {
            account: account.to_owned(),
            region: region.to_owned(),
            api,
        })
    }

    /// The region of its API.
    pub(crate) fn region(&self) -> &str {
        match self {
            Self::Private { region, .. } => region,
            Self::Public => "us-east-1",
        }
    }

    /// The host of its API.
    pub(crate) fn api(&self) -> &str {
        match self {
            Self::Private { api, .. } => api,
            Self::Public => PUBLIC_API,
        }
    }

    /// The service's name in a signature.
    pub(crate) fn service(&self) -> &'static str {
        match self {
            Self::Private { .. } => "ecr",
            Self::Public => "ecr-public",
        }
    }

    /// The prefix of `X-Amz-Target`.
    pub(crate) fn target(&self) -> &'static str {
        match self {
            Self::Private { .. } => "AmazonEC2ContainerRegistry_V20150921",
            Self::Public => "SpencerFrontendService",
        }
    }
}

impl fmt::Display for EcrHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private { region, .. } => write!(f, "ECR in {region}"),
            Self::Public => f.write_str("ECR Public"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_follows_the_hosts_form() {
        for (host, region, api) in [
            (
                "123456789012.dkr.ecr.us-east-2.amazonaws.com",
                "us-east-2",
                "api.ecr.us-east-2.amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
                "api.ecr-fips.us-gov-west-1.amazonaws.com",
            ),
            (
                "123456789012.dkr-ecr.eu-west-1.on.aws",
                "eu-west-1",
                "ecr.eu-west-1.api.aws",
            ),
            (
                "123456789012.dkr-ecr-fips.us-east-1.on.aws",
                "us-east-1",
                "ecr-fips.us-east-1.api.aws",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
                "api.ecr.cn-north-1.amazonaws.com.cn",
            ),
            (
                "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "cn-north-1",
                "ecr.cn-north-1.api.amazonwebservices.com.cn",
            ),
            (
                "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
                "eusc-de-east-1",
                "api.ecr.eusc-de-east-1.amazonaws.eu",
            ),
            (
                "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "us-iso-east-1",
                "api.ecr.us-iso-east-1.c2s.ic.gov",
            ),
            (
                "123456789012.dkr.ecr.us-east-2.amazonaws.com:443",
                "us-east-2",
                "api.ecr.us-east-2.amazonaws.com",
            ),
            (
                "public.ecr.aws",
                "us-east-1",
                "api.ecr-public.us-east-1.amazonaws.com",
            ),
            (
                "ecr-public.aws.com",
                "us-east-1",
                "api.ecr-public.us-east-1.amazonaws.com",
            ),
        ] {
            let parsed = EcrHost::parse(host).unwrap_or_else(|| panic!("{host}"));
            assert_eq!((parsed.region(), parsed.api()), (region, api), "{host}");
        }
    }

    #[test]
    fn no_other_host_gets_a_token() {
        for host in [
            "docker.io",
            "127.0.0.1:5000",
            "12345678901.dkr.ecr.us-east-2.amazonaws.com",
            "123456789012.dkr.ecr.us-east-2.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.us-east-2.amazonaws.com:5000",
            "123456789012.dkr.ecr.evil/us-east-2.amazonaws.com",
            "123456789012.dkr.s3.us-east-2.amazonaws.com",
            "123456789012.dkr.ecr..amazonaws.com",
            "x123456789012.dkr.ecr.us-east-2.amazonaws.com",
            "public.ecr.aws.evil.example",
        ] {
            assert_eq!(EcrHost::parse(host), None, "{host}");
        }
    }
}
