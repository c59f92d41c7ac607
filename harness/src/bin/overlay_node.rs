//! The shipped command under a name that this package's tests can ask Cargo for.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay::cli::main()
}
