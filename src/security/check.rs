//! Whether the files that a configuration names can be used together: told before a node fails by them, or is refused by its
//! neighbours.

use std::path::{Path, PathBuf};

use super::{SecurityError, Tls, Tokens};
use crate::config::{Overlay, Process, SecurityFiles, TlsFiles};

/// What was found about the files, each with the key of the configuration that names it.
#[derive(Debug, Default)]
pub struct Checked {
    /// Why a process could not start, or would be refused.
    pub problems: Vec<(&'static str, SecurityError)>,
    /// Odd, but as it should be on one of several hosts.
    pub warnings: Vec<(&'static str, SecurityError)>,
}

/// Checks the files of every process; those of some processes may be on other hosts.
pub fn check(overlay: &Overlay, files: &SecurityFiles) -> Checked {
    let mut checked = Checked::default();
    if let Some(file) = &files.tokens {
        let usable = Tokens::read(file).and_then(|tokens| match files.tls {
            None => tokens.check_peers(file),
            Some(_) => Ok(()),
        });
        checked.problems.extend(usable.err().map(|error| ("security.tokens", error)));
    }
    if let Some(tls) = &files.tls {
        check_certificates(overlay, tls, &mut checked);
    }
    checked
}

fn check_certificates(overlay: &Overlay, tls: &TlsFiles, checked: &mut Checked) {
    if let Err(error) = super::tls::roots(&tls.ca) {
        checked.problems.push(("security.tls.ca", error));
        return;
    }
    let is_here = |process: &&Process| tls.files_of(&process.id).iter().any(|file| file.exists());
    let (here, elsewhere): (Vec<_>, Vec<_>) = overlay.processes.values().partition(is_here);
    // Where nothing is at all, the path is wrong.
    let (here, elsewhere) = if here.is_empty() { (elsewhere, here) } else { (here, elsewhere) };
    for process in here {
        if let Err(error) = Tls::check_own(tls, process) {
            let [certificate, _] = tls.files_of(&process.id);
            let key = if error.file == certificate { "security.tls.certificate" } else { "security.tls.key" };
            checked.problems.push((key, error));
        }
    }
    for process in elsewhere {
        let [certificate, _] = tls.files_of(&process.id);
        let what = format!("is not on this host: process `{}` cannot run here", process.id);
        checked.warnings.push(("security.tls.certificate", SecurityError::new(&certificate, what)));
    }
}

impl TlsFiles {
    /// The certificate and the key of the node `id`.
    pub(super) fn files_of(&self, id: &str) -> [PathBuf; 2] {
        let own = |path: &Path| PathBuf::from(path.to_string_lossy().replace("{id}", id));
        [own(&self.certificate), own(&self.key)]
    }
}
