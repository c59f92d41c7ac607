//! The command `overlay`: arguments -> command -> exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay::cli::main()
}
