//! The command `overlay` once more, so that the harness's tests have a binary of their own package to start.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay::cli::main()
}
