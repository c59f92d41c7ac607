//! Compiles `proto/` without `protoc` and writes the descriptor set that reflection serves.

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
    Ok(())
}
