//! Compiles `proto/` without `protoc`, writes the descriptor set that reflection serves, and says which version this is.

use std::process::Command;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(
        ["overlay_node.proto", "overlay/v1/overlay.proto", "overlay/v1/peer.proto"],
        ["proto"],
    )?;
    let out_dir = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), files.encode_to_vec())?;
    let codec = "crate::codec::SizedCodec";
    tonic_prost_build::configure().bytes(".overlay.v1.Frame").codec_path(codec).compile_fds(files)?;
    println!("cargo::rustc-env=OVERLAY_VERSION={}", version()?);
    Ok(())
}

/// The package's version, in a release build of a checkout with the commit. Other builds are not made anew for each commit.
fn version() -> Result<String, std::env::VarError> {
    let version = std::env::var("CARGO_PKG_VERSION")?;
    if std::env::var("PROFILE")? != "release" {
        return Ok(version);
    }
    for path in [".git/HEAD", ".git/refs"].iter().filter(|path| std::path::Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let said = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = said.ok().filter(|said| said.status.success()).map(|said| said.stdout);
    Ok(match commit.as_deref().map(String::from_utf8_lossy) {
        Some(commit) => format!("{version} ({})", commit.trim()),
        None => version,
    })
}
