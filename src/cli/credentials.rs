//! What a command proves itself by, where nodes want that.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::config::Overlay;
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
        self.read(self.ca.as_deref())
    }

    /// The same for the nodes of a configuration, which knows their CA.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a file cannot be used.
    pub(crate) fn security_in(&self, overlay: &Overlay) -> Result<Security, Failure> {
        let configured = overlay.security.as_ref().and_then(|files| files.tls.as_ref());
        self.read(self.ca.as_deref().or(configured.map(|tls| &*tls.ca)))
    }

    /// Whether connections are not encrypted.
    pub(crate) fn ask_plainly(&self) -> bool {
        self.ca.is_none()
    }

    fn read(&self, ca: Option<&Path>) -> Result<Security, Failure> {
        Security::of_client(ca, self.token_file.as_deref()).map_err(|error| {
            Failure::usage(error, "`overlay certs` makes certificates and tokens for development")
        })
    }
}
