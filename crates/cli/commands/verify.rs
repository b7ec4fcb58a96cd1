//! `smokegate verify`: a receipt against a key and a digest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use smokegate_image::ImageSource;

use crate::args::{CommonArgs, Format, VerifyArgs, from_registry, has_transport};
use crate::attestation::{Trust, clear_attached, read_file};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::settings;
use crate::sources::Sources;

pub(crate) async fn run(
    args: VerifyArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let trust = Trust::of(&args.trust)?;
    let path = Path::new(&args.subject);
    let accepted = if is_json(path) {
        read_file(path, args.digest.as_ref(), &trust)?
    } else {
        let source = image(&args.subject)?;
        let sources = Sources::new(&args.registry, common, printer);
        let opened = sources.refer(&source, settings::any_platform()).await?;
        let digest = opened.image.digest();
        if let Some(wanted) = args.digest.as_ref().filter(|wanted| *wanted != digest) {
            let cause = format!("`{}` is {digest}, not {wanted}", args.subject);
            return Err(Failure::new(ExitStatus::GateFailed, cause));
        }
        let source = opened.source.as_ref();
        clear_attached(&opened.image, &args.subject, source, &trust).await?
    };
    printer.step(format!(
        "receipt: a complete pass for {}, {}",
        accepted.digest, accepted.signer
    ));
    match common.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&accepted.statement);
            printer.data(text.expect("a statement is JSON"));
        }
        Format::Human | Format::Sarif => printer.data(accepted.digest.to_string()),
    }
    Ok(ExitStatus::Success)
}

/// A receipt's first character; an archive's never.
fn is_json(path: &Path) -> bool {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut first));
    let text = first.trim_ascii_start();
    read.is_ok() && path.is_file() && text.starts_with(b"{")
}

/// An image by its transport or path, else as a registry's.
fn image(subject: &str) -> Result<ImageSource, Failure> {
    if subject == "-" {
        return Err(Failure::usage(
            "a receipt is not verified from standard input",
        ));
    }
    let parsed = if has_transport(subject) || Path::new(subject).exists() {
        subject.parse().map_err(|error| format!("{error}"))
    } else {
        from_registry(subject)
    };
    parsed.map_err(|problem| {
        Failure::usage(format!(
            "no receipt `{subject}`: it is no file, and {problem}"
        ))
    })
}
