//! `smokegate inspect`: what an image is made of, without running or unpacking it.

use serde_json::json;
use smokegate_image::{DocumentKind, Image, PlatformImage};

use crate::args::{CommonArgs, Format, InspectArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::{Printer, harmless};
use crate::report::progress::size;
use crate::settings;
use crate::sources::{Needed, Sources};

pub(crate) async fn run(
    args: InspectArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let mut options = settings::open_options(&args.source, false);
    options.require_platform = args.source.platform.is_some();
    let sources = Sources::new(&args.registry, common, printer);
    let opened = sources
        .open("image", args.source.image, options, Needed::Documents)
        .await?;
    let image = opened.image;
    match common.format {
        Format::Json => printer.data(format!("{:#}", as_json(&image))),
        Format::Human | Format::Sarif => as_text(&image)
            .iter()
            .for_each(|line| printer.data(harmless(line))),
    }
    Ok(ExitStatus::Success)
}

fn kind(kind: DocumentKind) -> &'static str {
    match kind {
        DocumentKind::Image => "image",
        DocumentKind::Index => "index",
        DocumentKind::Attached => "attached",
    }
}

fn as_text(image: &Image) -> Vec<String> {
    let root = image.root();
    let mut lines = vec![
        format!("digest:    {}", root.digest),
        format!("mediaType: {}", root.media_type),
    ];
    if !image.names().is_empty() {
        lines.push(format!("names:     {}", image.names().join(", ")));
    }
    for note in image.notes() {
        lines.push(format!("note:      {note}"));
    }
    lines.push("documents:".into());
    for document in image.documents() {
        let platform = document.platform.as_deref().unwrap_or("-");
        let (digest, bytes) = (&document.digest, document.bytes.len());
        lines.push(format!(
            "  {digest}  {:<8}  {platform}  {bytes} B",
            kind(document.kind)
        ));
    }
    for platform in image.platforms() {
        lines.extend(platform_text(platform));
    }
    lines
}

fn platform_text(image: &PlatformImage) -> Vec<String> {
    let config = &image.config;
    let list = |items: &[String]| format!("{items:?}");
    let mut lines = vec![
        format!("platform {}:", image.platform),
        format!("  manifest:   {}", image.manifest),
        format!("  config:     {}", image.config_digest),
        format!("  entrypoint: {}", list(&config.entrypoint)),
        format!("  cmd:        {}", list(&config.cmd)),
        format!(
            "  user:       {}",
            if config.user.is_empty() {
                "root"
            } else {
                &config.user
            }
        ),
        format!(
            "  workdir:    {}",
            if config.working_dir.is_empty() {
                "/"
            } else {
                &config.working_dir
            }
        ),
        format!("  exposed:    {}", config.exposed_ports.join(" ")),
        format!("  volumes:    {}", config.volumes.join(" ")),
    ];
    if let Some(healthcheck) = &config.healthcheck {
        lines.push(format!("  healthcheck: {:?}", healthcheck.test));
    }
    // Values of variables may be secrets that were built in by mistake; JSON shows them.
    let names: Vec<_> = config
        .env
        .iter()
        .map(|e| e.split('=').next().unwrap_or_default())
        .collect();
    lines.push(format!("  env:        {}", names.join(" ")));
    lines.push("  layers:".into());
    for layer in &image.layers {
        let compression = format!("{:?}", layer.compression).to_lowercase();
        lines.push(format!(
            "    {}  {:>9}  {compression}",
            layer.blob.digest(),
            size(layer.blob.size())
        ));
    }
    lines
}

fn as_json(image: &Image) -> serde_json::Value {
    let documents = image.documents().iter().map(|document| {
        json!({
            "digest": document.digest,
            "mediaType": document.media_type,
            "kind": kind(document.kind),
            "platform": document.platform,
            "size": document.bytes.len(),
        })
    });
    let platforms = image.platforms().iter().map(|one| {
        // The config as the image has it: its own bytes, parsed but not interpreted.
        let config: serde_json::Value = serde_json::from_slice(&one.config.raw).unwrap_or_default();
        let layers = one.layers.iter().map(|layer| {
            json!({
                "digest": layer.blob.digest(),
                "mediaType": layer.blob.media_type(),
                "size": layer.blob.size(),
                "diffId": layer.diff_id,
                "compression": layer.compression,
            })
        });
        json!({
            "platform": one.platform,
            "manifest": one.manifest,
            "configDigest": one.config_digest,
            "config": config,
            "layers": layers.collect::<Vec<_>>(),
        })
    });
    json!({
        "digest": image.digest(),
        "mediaType": image.root().media_type,
        "names": image.names(),
        "notes": image.notes(),
        "documents": documents.collect::<Vec<_>>(),
        "platforms": platforms.collect::<Vec<_>>(),
    })
}
