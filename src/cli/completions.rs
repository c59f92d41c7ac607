//! `overlay completions`: what a shell has to know to complete our commands.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use super::Failure;

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay completions bash > ~/.local/share/bash-completion/completions/overlay
  overlay completions zsh > ~/.zfunc/_overlay
  overlay completions fish > ~/.config/fish/completions/overlay.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the completions of `command`, which is all of `overlay`.
    pub(crate) fn run(self, command: &mut clap::Command) -> Result<(), Failure> {
        // Generated first: the generator panics where its output cannot be written.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "overlay", &mut script);
        Ok(std::io::stdout().lock().write_all(&script)?)
    }
}
