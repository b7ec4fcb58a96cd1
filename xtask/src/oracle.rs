//! Puts the same questions to smokegate and to what else stands on this machine, and lists where the answers differ.
//!
//! Docker is the reference: a daemon that answers, or one that root starts here for the while, with directories of
//! its own. umoci is asked for the tree, and crun for what a runtime makes of Docker's settings.

mod answers;
mod bundle;
mod daemon;
mod explained;
mod questions;
mod scratch;
mod smokegate;
mod table;

use crate::workspace::{build_programs, is_installed, is_root, run};
use crate::{Result, fixtures, packages};

use answers::Answers;
use daemon::Docker;
use questions::Question;
use scratch::Scratch;
use smokegate::{Level, Smokegate};
use table::Table;

/// The image that is asked: `fixtures/images/oracle.txt`.
const IMAGE: &str = "oracle";

/// Whether every difference is explained.
pub(crate) fn oracle() -> Result<bool> {
    packages::ensure();
    packages::ensure_oracles();
    println!("building smokegate and the image");
    let programs = build_programs(&["smokegate", "smokegate-test-support"], false)?;
    let scratch = Scratch::new()?;
    for (form, name, tag) in [
        ("oci-layout", "layout", "v1"),
        ("oci-archive", "image.oci.tar", "v1"),
        ("docker-archive-legacy", "image.docker.tar", "oracle:v1"),
    ] {
        let mut command = fixtures::program()?;
        command.args([IMAGE, form]).arg(scratch.path(name)).arg(tag);
        run(command.stdout(std::process::Stdio::null()))?;
    }
    let questions = Question::all();
    let own = Smokegate::new(&programs.join("smokegate"), &scratch)?;
    let mut levels = Vec::new();
    for level in Level::available() {
        println!("asking smokegate at level {}", level.name());
        levels.push((level, own.answers(level, &questions)?));
    }
    let mut table = Table::default();
    let mut compared = 0;
    match Docker::find(&scratch)? {
        Some(docker) => {
            println!("asking {}", docker.version());
            let theirs = docker.answers(&questions)?;
            for (level, ours) in &levels {
                compared += table.compare("docker", level.name(), &theirs, ours);
            }
        }
        None => {
            println!("not asked: Docker; no daemon answers, and root with dockerd could start one")
        }
    }
    let root = levels.iter().find(|(level, _)| *level == Level::Root);
    match root {
        Some((level, ours)) if is_installed("umoci") => {
            let bundle = bundle::unpack(&scratch)?;
            println!("asking umoci");
            let theirs = bundle::tree(&bundle)?;
            compared += table.compare("umoci", level.name(), &theirs, ours);
            if is_installed("crun") {
                println!("asking crun, given Docker's settings without its seccomp profile");
                match bundle::answers_of_crun(&bundle, &questions) {
                    Ok(theirs) => {
                        let ours = without_filter(ours);
                        compared += table.compare("crun", level.name(), &theirs, &ours);
                    }
                    Err(error) => println!("not asked: {error}"),
                }
            }
        }
        _ => println!("not asked: umoci and crun; they are, as root, where they are installed"),
    }
    if compared == 0 {
        return Err("there was nothing to compare with".into());
    }
    println!("{table}");
    let unexplained = table.unexplained();
    println!("{compared} facts compared, {unexplained} differences unexplained");
    if !is_root() {
        println!("only what an ordinary user can ask was asked");
    }
    Ok(unexplained == 0)
}

/// crun was given no profile, so nothing about one can be compared.
fn without_filter(answers: &Answers) -> Answers {
    let mut answers = answers.clone();
    answers.retain(|fact| !fact.contains(" syscall ") && !fact.ends_with(" Seccomp"));
    answers
}
