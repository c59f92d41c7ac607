//! What a node, or a client, proves itself by, and what it demands of others: certificates and tokens, read from files once.
//!
//! Nothing is decided here; who may call what stands in [`crate::access`]. Keys and tokens never leave this module but
//! to the TLS library and into the header of a request: they have no way to be printed.

mod check;
mod tls;
mod tokens;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use check::{Checked, check};
pub use tls::{NODE_NAME, SpeaksNoTls, Tls, accept_tls};
pub use tokens::{Bearer, Credential, Tokens};

use crate::config::{Process, SecurityFiles};
use crate::outside::Connect;

/// Bytes of a file with certificates, a key or tokens.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What one party proves itself by.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Arc<Tls>>,
    tokens: Option<Arc<Tokens>>,
    bearer: Bearer,
}

/// Why certificates or tokens cannot be used. The words name the file, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", file.display())]
pub struct SecurityError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl SecurityError {
    fn new(file: &Path, what: impl Into<String>) -> Self {
        SecurityError { file: file.to_owned(), what: what.into() }
    }
}

impl Security {
    /// What a process shows and demands, from the files that the configuration names. A certificate that its neighbours
    /// will refuse is told of in the log.
    ///
    /// # Errors
    /// [`SecurityError`] of the first file that cannot be used.
    pub fn of_node(files: &SecurityFiles, process: &Process) -> Result<Self, SecurityError> {
        let tls = files.tls.as_ref().map(|files| Tls::of_node(files, &process.id)).transpose()?;
        if let Some(Err(error)) = files.tls.as_ref().map(|files| Tls::check_own(files, process)) {
            tracing::warn!(node = %process.id, %error, "other nodes will refuse this certificate");
        }
        let tokens = files.tokens.as_deref().map(Tokens::read).transpose()?.map(Arc::new);
        if let (None, Some(tokens), Some(file)) = (&tls, &tokens, &files.tokens) {
            tokens.check_peers(file)?;
        }
        let bearer = tokens.as_ref().map(|tokens| tokens.of_peers()).unwrap_or_default();
        Ok(Security { tls: tls.map(Arc::new), tokens, bearer })
    }

    /// What a client shows: who signs its nodes' certificates, and its token.
    ///
    /// # Errors
    /// [`SecurityError`] of the first file that cannot be used.
    pub fn of_client(ca: Option<&Path>, token: Option<&Path>) -> Result<Self, SecurityError> {
        let tls = ca.map(Tls::of_client).transpose()?.map(Arc::new);
        let bearer = token.map(Bearer::read).transpose()?.unwrap_or_default();
        Ok(Security { tls, tokens: None, bearer })
    }

    /// Certificates, if any are used.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// The tokens that callers need one of, if they do.
    pub fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref()
    }

    /// The token that is sent along with every request, if there is one.
    pub fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }

    /// Connects to whoever has a certificate for the host that is connected to; without TLS, to anybody.
    pub fn connect(&self, connect: Arc<dyn Connect>) -> Arc<dyn Connect> {
        match &self.tls {
            Some(tls) => Tls::connect(tls, connect, None),
            None => connect,
        }
    }

    /// Connects to a process of the overlay, whose certificate must name it.
    pub fn connect_to(&self, connect: Arc<dyn Connect>, process: &Process) -> Arc<dyn Connect> {
        match &self.tls {
            Some(tls) => Tls::connect(tls, connect, Some(process.id.clone())),
            None => connect,
        }
    }
}

/// Tells what is used, never what it is.
impl fmt::Debug for Security {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Security { tls, tokens, bearer } = self;
        formatter
            .debug_struct("Security")
            .field("tls", &tls.is_some())
            .field("tokens", &tokens.is_some())
            .field("bearer", bearer)
            .finish()
    }
}

/// The text of a file that a person wrote.
fn read(file: &Path) -> Result<String, SecurityError> {
    let failed = |error: std::io::Error| SecurityError::new(file, format!("cannot be read: {error}"));
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(SecurityError::new(file, format!("{bytes} bytes, limit {MAX_FILE_BYTES}")));
    }
    fs::read_to_string(file).map_err(failed)
}

/// Warns of a secret that others on this host can read.
fn warn_if_others_can_read(file: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            tracing::warn!(file = %file.display(), "others on this host can read this secret: chmod 600");
        }
    }
    #[cfg(not(unix))]
    let _ = file;
}
