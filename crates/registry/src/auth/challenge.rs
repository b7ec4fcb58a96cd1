//! `WWW-Authenticate` (RFC 9110, 11.6.1): several challenges in one value, parameters quoted or not.

/// A challenge that can be answered. Others are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Every challenge of one header value that can be answered, in order.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut scanner = Scanner { rest: value };
    let mut schemes: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    loop {
        scanner.skip(&[',', ' ', '\t']);
        let word = scanner.token();
        if word.is_empty() {
            break;
        }
        let after_word = scanner.rest;
        scanner.skip(&[' ', '\t']);
        if let Some(rest) = scanner.rest.strip_prefix('=') {
            scanner.rest = rest;
            scanner.skip(&[' ', '\t']);
            let parameter = (word.to_ascii_lowercase(), scanner.value());
            if let Some((_, parameters)) = schemes.last_mut() {
                parameters.push(parameter);
            }
        } else {
            scanner.rest = after_word;
            schemes.push((word, Vec::new()));
        }
    }
    schemes
        .into_iter()
        .filter_map(|(scheme, parameters)| challenge(scheme, &parameters))
        .collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let parameter = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        let realm = parameter("realm")?;
        return Some(Challenge::Bearer {
            realm,
            service: parameter("service"),
            scope: parameter("scope"),
        });
    }
    None
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip(&mut self, characters: &[char]) {
        self.rest = self.rest.trim_start_matches(characters);
    }

    fn token(&mut self) -> &'a str {
        let end = self
            .rest
            .find([',', ' ', '\t', '=', '"'])
            .unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        // A stray quote would otherwise be met again and again.
        self.rest = if token.is_empty() { "" } else { rest };
        token
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            // Unquoted values hold no comma by the grammar, though some registries send URLs that way.
            let end = self.rest.find([',', ' ', '\t']).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return value.to_owned();
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &quoted[index + 1..];
                    return value;
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                _ => value.push(character),
            }
        }
        self.rest = "";
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_of_real_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let quay = r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#;
        let ecr = r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#;
        for (value, expected) in [
            (
                hub,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (
                quay,
                vec![bearer("https://quay.io/v2/auth", Some("quay.io"), None)],
            ),
            (ecr, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="a \" b, c", BEARER  Realm = https://x/t , service=s"#,
                vec![Challenge::Basic, bearer("https://x/t", Some("s"), None)],
            ),
            ("Negotiate dG9rZW4=, Basic", vec![Challenge::Basic]),
            (r#"Bearer service="no realm""#, vec![]),
            (
                r#"Bearer realm="unterminated"#,
                vec![bearer("unterminated", None, None)],
            ),
            ("", vec![]),
        ] {
            assert_eq!(parse(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_value_ends(value in "[ -~]{0,200}") {
            parse(&value);
        }

        #[test]
        fn quoted_strings_come_back(realm in "[ -~]{1,60}", service in "[ -~]{1,60}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let value = format!("Bearer realm=\"{}\", service=\"{}\"", quote(&realm), quote(&service));
            prop_assert_eq!(parse(&value), vec![bearer(&realm, Some(&service), None)]);
        }
    }
}
