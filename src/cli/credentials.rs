//! What a command proves itself by, where nodes want that.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::security::Security;

/// Of commands that talk to nodes.
#[derive(Debug, Default, Args)]
pub(crate) struct CredentialArgs {
    /// Who signs the nodes' certificates, PEM; without it connections are not encrypted
    #[arg(long, value_name = "FILE", env = "OVERLAY_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// File with the token to send
    #[arg(long, value_name = "FILE", env = "OVERLAY_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
}

impl CredentialArgs {
    /// The files' contents.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a file cannot be used.
    pub(crate) fn security(&self) -> Result<Security, Failure> {
        Security::of_client(self.ca.as_deref(), self.token_file.as_deref()).map_err(|error| {
            Failure::usage(error, "`overlay certs` makes certificates and tokens for development")
        })
    }
}
