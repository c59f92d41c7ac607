//! `overlay certs`: a development CA, a certificate for each process, and a token for each role.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::{DEFAULT_LEADER, Failure, read_overlay};
use crate::config::{Overlay, Process};
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

Writes ca.pem and ca.key, ID.pem and ID.key for each process, tokens.json with a token of each role, each token in a \
file of its own for --token-file, and overlay.json, the configuration with these in it. Nothing is overwritten. \
Keys and tokens can be read by their owner only; give a host overlay.json, ca.pem, tokens.json and the files of its own \
processes, and keep ca.key off the hosts.")]
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

/// A file to write.
struct Made {
    name: String,
    text: String,
    is_secret: bool,
}

impl Made {
    fn new(name: impl Into<String>, text: String) -> Self {
        Made { name: name.into(), text, is_secret: false }
    }

    /// Only for its owner.
    fn secret(name: impl Into<String>, text: String) -> Self {
        Made { name: name.into(), text, is_secret: true }
    }
}

impl Certs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let overlay = read_overlay(&self.config, None)?;
        let now = chrono::Utc::now().timestamp();
        let valid = [now - CLOCKS_DIFFER_BY, now + i64::from(self.days) * 86_400];
        let mut made = certificates(&overlay, valid)?;
        made.extend(tokens()?);
        made.push(self.secured()?);
        self.write(&made)?;
        self.say(&overlay)
    }

    /// The configuration with certificates and tokens in it, which stand beside it.
    fn secured(&self) -> Result<Made, Failure> {
        let mut config: Value = serde_json::from_slice(&fs::read(&self.config)?)?;
        config["security"] = security();
        Ok(Made::new("overlay.json", format!("{config:#}\n")))
    }

    /// Writes all files, or none if one of them exists.
    fn write(&self, made: &[Made]) -> Result<(), Failure> {
        let help = "nothing is overwritten: choose another folder with --output, or remove the old files";
        let failed = |path: &Path, error: std::io::Error| {
            Failure::with_help(format!("cannot write {}: {error}", path.display()), help)
        };
        let there = made.iter().map(|made| self.output.join(&made.name)).find(|path| path.exists());
        if let Some(path) = there {
            let error = format!("cannot write {}: it is there already", path.display());
            return Err(Failure::usage(error, help));
        }
        fs::create_dir_all(&self.output).map_err(|error| failed(&self.output, error))?;
        for Made { name, text, is_secret } in made {
            let path = self.output.join(name);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                options.mode(if *is_secret { 0o600 } else { 0o644 });
            }
            #[cfg(not(unix))]
            let _ = is_secret;
            let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }

    /// What the configuration has now, and what then works.
    fn say(&self, overlay: &Overlay) -> Result<(), Failure> {
        let shown = |name: &str| self.output.join(name).display().to_string();
        let mut out = std::io::stdout().lock();
        let processes = overlay.processes.len();
        writeln!(out, "{}: a CA, {processes} certificates, 3 tokens", self.output.display())?;
        writeln!(out, "\n{} is the configuration with this in it:", shown("overlay.json"))?;
        writeln!(out, "{:#}", json!({ "security": security() }))?;
        writeln!(out, "\nnext:\noverlay up --config {} --dataset-root DIR", shown("overlay.json"))?;
        let (ca, token) = (shown("ca.pem"), shown("client.token"));
        let leader = overlay.leader().address();
        let leader = if leader == DEFAULT_LEADER { String::new() } else { format!(" --leader {leader}") };
        writeln!(out, "overlay query PM2.5 5 35{leader} --ca {ca} --token-file {token}")?;
        Ok(())
    }
}

/// The files by their names, which are looked up beside the configuration.
fn security() -> Value {
    json!({
        "tls": {"ca": "ca.pem", "certificate": "{id}.pem", "key": "{id}.key"},
        "tokens": "tokens.json",
    })
}

/// The CA, and a certificate with its key for each process.
fn certificates(overlay: &Overlay, valid: [i64; 2]) -> Result<Vec<Made>, Failure> {
    let issuer = authority(valid)?;
    let mut made =
        vec![Made::new("ca.pem", issuer.pem()), Made::secret("ca.key", issuer.key().serialize_pem())];
    for process in overlay.processes.values() {
        let id = &process.id;
        if !id.chars().all(|letter| letter.is_ascii_graphic() && !r#"/\:*?"<>|"#.contains(letter))
            || id == "ca"
        {
            let error =
                format!("process `{id}` can have no certificate: its id is no name of a file of its own");
            return Err(Failure::usage(error, "ids of visible ASCII letters, and not `ca`, have one"));
        }
        let key = KeyPair::generate()?;
        let certificate = of_process(process, valid)?.signed_by(&key, &issuer)?;
        made.push(Made::new(format!("{id}.pem"), certificate.pem()));
        made.push(Made::secret(format!("{id}.key"), key.serialize_pem()));
    }
    Ok(made)
}

/// A token for each role: all in one file for the nodes, and each in a file of its own for whoever sends it.
fn tokens() -> Result<Vec<Made>, Failure> {
    let mut entries = Vec::new();
    let mut made = Vec::new();
    for role in ["client", "peer", "admin"] {
        let token = token()?;
        entries.push(json!({"name": role, "role": role, "token": token}));
        made.push(Made::secret(format!("{role}.token"), format!("{token}\n")));
    }
    made.push(Made::secret("tokens.json", format!("{:#}\n", Value::from(entries))));
    Ok(made)
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
    let node = SanType::URI(format!("{NODE_NAME}{}", process.id).try_into()?);
    parameters.subject_alt_names = names_of(&process.host)?;
    parameters.subject_alt_names.push(node);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(parameters)
}

/// A host by the name or address that it is configured with; this host by all that it is usually called.
fn names_of(host: &str) -> Result<Vec<SanType>, rcgen::Error> {
    let is_this_host = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let usual: &[&str] = if is_this_host { &["localhost", "127.0.0.1", "::1"] } else { &[] };
    let others = usual.iter().copied().filter(|name| *name != host);
    let name = |name: &str| match name.parse() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    };
    [host].into_iter().chain(others).map(name).collect()
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
