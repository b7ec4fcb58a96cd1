//! Names that sources give their images, and which of several images a name means.

use crate::Error;

/// One of several images: its names, and how to say which it is where it has none.
pub(crate) struct Candidate<T> {
    pub(crate) image: T,
    pub(crate) names: Vec<String>,
    pub(crate) digest: String,
    pub(crate) fallback: String,
}

/// The candidate called `tag`, or the only one there is.
pub(crate) fn choose<T>(
    mut candidates: Vec<Candidate<T>>,
    tag: Option<&str>,
) -> Result<Candidate<T>, Error> {
    let Some(tag) = tag else {
        if candidates.len() > 1 {
            return Err(Error::SeveralImages {
                count: candidates.len(),
                names: all_names(&candidates),
            });
        }
        return candidates.pop().ok_or_else(|| Error::Document {
            what: "the list of images".to_owned(),
            problem: "it is empty".to_owned(),
        });
    };
    let names = all_names(&candidates);
    let mut found: Vec<Candidate<T>> = candidates
        .into_iter()
        .filter(|one| one.digest == tag || one.names.iter().any(|name| means(tag, name)))
        .collect();
    // `v1` may be the tag of several repositories; a full name is always preferred.
    if found.len() > 1 {
        let exact =
            |one: &Candidate<T>| one.names.iter().any(|name| familiar(name) == familiar(tag));
        if found.iter().filter(|one| exact(one)).count() == 1 {
            found.retain(exact);
        }
    }
    match found.len() {
        0 => Err(Error::NoSuchImage {
            tag: tag.to_owned(),
            names,
        }),
        1 => Ok(found.remove(0)),
        _ => Err(Error::AmbiguousName {
            tag: tag.to_owned(),
            names: all_names(&found),
        }),
    }
}

fn all_names<T>(candidates: &[Candidate<T>]) -> Vec<String> {
    candidates
        .iter()
        .flat_map(|one| match one.names.as_slice() {
            [] => vec![one.fallback.clone()],
            names => names.iter().map(|name| format!("`{name}`")).collect(),
        })
        .collect()
}

fn means(tag: &str, name: &str) -> bool {
    familiar(tag) == familiar(name) || tag_of(name) == Some(tag)
}

/// Docker's short form: `docker.io/library/app:v1` is called `app:v1`.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// What follows the colon that is not a port's.
fn tag_of(name: &str) -> Option<&str> {
    name.rsplit_once(':')
        .map(|(_, tag)| tag)
        .filter(|tag| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate<u8>> {
        let one = |image, names: &[&str]| Candidate {
            image,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: format!("sha256:{image}"),
            fallback: format!("sha256:{image}@linux/amd64"),
        };
        vec![
            one(
                1,
                &["docker.io/library/app:v1", "localhost:5000/app:stable"],
            ),
            one(2, &["docker.io/library/db:v1"]),
            one(3, &[]),
        ]
    }

    #[test]
    fn names_mean_images() {
        let cases: [(&str, Result<u8, &str>); 8] = [
            ("app:v1", Ok(1)),
            ("docker.io/library/app:v1", Ok(1)),
            ("stable", Ok(1)),
            ("db:v1", Ok(2)),
            ("sha256:3", Ok(3)),
            ("v1", Err("`v1` names several images")),
            (
                "5000/app:stable",
                Err(
                    "no image is named `5000/app:stable`; there are `docker.io/library/app:v1`, `localhost:5000/app:stable`, `docker.io/library/db:v1`, sha256:3@linux/amd64",
                ),
            ),
            ("app", Err("no image is named")),
        ];
        for (tag, expected) in cases {
            match (choose(candidates(), Some(tag)), expected) {
                (Ok(found), Ok(image)) => assert_eq!(found.image, image, "{tag}"),
                (Err(error), Err(message)) => {
                    assert!(error.to_string().contains(message), "{error}")
                }
                (found, _) => panic!("{tag}: {:?}", found.map(|one| one.image)),
            }
        }
        let error = choose(candidates(), None).err().unwrap().to_string();
        assert!(
            error.starts_with("there are 3 images and none was named: `docker.io/"),
            "{error}"
        );
    }
}
