//! `overlay certs`: a development CA, a certificate for each process, and a token for each role.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::{Failure, read_overlay};
use crate::config::Process;
use crate::security::NODE_NAME;

/// Random bytes of a token; twice as many characters.
const TOKEN_BYTES: usize = 32;

/// Before now, so that hosts whose clocks differ a little take a certificate at once.
const CLOCKS_DIFFER_BY: i64 = 3600;

/// Make certificates and tokens for development.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay certs --output certs
  overlay certs --config configs/two_hosts_config.json --output certs --days 30

Writes ca.pem and ca.key, ID.pem and ID.key for each process, tokens.json with a token of each role, and each token \
in a file of its own for --token-file. Nothing is overwritten. Keys and tokens can be read by their owner only; give a host \
the files of its own processes, ca.pem and tokens.json, and keep ca.key off the hosts.")]
pub(crate) struct Certs {
    /// The configuration whose processes get certificates
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json")]
    config: PathBuf,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How many days certificates are valid for
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

impl Certs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let overlay = read_overlay(&self.config, None)?;
        fs::create_dir_all(&self.output)
            .map_err(|error| format!("cannot make {}: {error}", self.output.display()))?;
        let now = chrono::Utc::now().timestamp();
        let valid = [now - CLOCKS_DIFFER_BY, now + i64::from(self.days) * 86_400];
        let issuer = authority(valid)?;
        self.write("ca.pem", &issuer.pem(), false)?;
        self.write("ca.key", &issuer.key().serialize_pem(), true)?;
        for process in overlay.processes.values() {
            let key = KeyPair::generate()?;
            let certificate = of_process(process, valid)?.signed_by(&key, &issuer)?;
            self.write(&format!("{}.pem", process.id), &certificate.pem(), false)?;
            self.write(&format!("{}.key", process.id), &key.serialize_pem(), true)?;
        }
        let roles = ["client", "peer", "admin"].map(|role| token().map(|token| (role, token)));
        let roles: Vec<(&str, String)> = roles.into_iter().collect::<Result<_, _>>()?;
        for (role, token) in &roles {
            self.write(&format!("{role}.token"), &format!("{token}\n"), true)?;
        }
        let tokens = roles.iter().map(|(role, token)| json!({"name": role, "role": role, "token": token}));
        let tokens = serde_json::Value::from_iter(tokens);
        self.write("tokens.json", &format!("{tokens:#}\n"), true)?;
        self.say(overlay.processes.len())
    }

    /// Writes a file that must not exist; secrets only for their owner.
    fn write(&self, name: &str, text: &str, is_secret: bool) -> Result<(), Failure> {
        let path = self.output.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(if is_secret { 0o600 } else { 0o644 });
        }
        #[cfg(not(unix))]
        let _ = is_secret;
        let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| {
            let error = format!("cannot write {}: {error}", path.display());
            Failure::with_help(error, "nothing is overwritten: choose another folder with --output")
        })
    }

    /// What to put into the configuration, and what then works.
    fn say(&self, processes: usize) -> Result<(), Failure> {
        let folder = fs::canonicalize(&self.output).unwrap_or_else(|_| self.output.clone());
        let file = |name: &str| folder.join(name).display().to_string();
        let security = json!({"security": {
            "tls": {"ca": file("ca.pem"), "certificate": file("{id}.pem"), "key": file("{id}.key")},
            "tokens": file("tokens.json"),
        }});
        let shown = |name: &str| Path::new(&self.output).join(name).display().to_string();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}: a CA, {processes} certificates, 3 tokens", self.output.display())?;
        writeln!(out, "\nadd to the configuration:\n{security:#}")?;
        writeln!(
            out,
            "\nand ask with:\noverlay query PM2.5 5 35 --ca {} --token-file {}",
            shown("ca.pem"),
            shown("client.token")
        )?;
        Ok(())
    }
}

fn authority(valid: [i64; 2]) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut parameters = parameters("overlay development CA", valid)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)
}

/// For the process's host, and for the node itself, as server and as client.
fn of_process(process: &Process, valid: [i64; 2]) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = parameters(&format!("overlay node {}", process.id), valid)?;
    let host = match process.host.parse() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(process.host.as_str().try_into()?),
    };
    let node = SanType::URI(format!("{NODE_NAME}{}", process.id).try_into()?);
    parameters.subject_alt_names = vec![host, node];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(parameters)
}

fn parameters(name: &str, [from, until]: [i64; 2]) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    let instant = |seconds| time::OffsetDateTime::from_unix_timestamp(seconds);
    if let (Ok(from), Ok(until)) = (instant(from), instant(until)) {
        (parameters.not_before, parameters.not_after) = (from, until);
    }
    Ok(parameters)
}

fn token() -> Result<String, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
