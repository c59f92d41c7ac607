//! The `overlay-harness` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_harness::cli::main()
}
