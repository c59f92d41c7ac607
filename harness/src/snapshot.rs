//! What snapshots do not assert, each with the reason; the only place where a snapshot's text is changed.
//!
//! Anything else in a snapshot is asserted byte for byte. Snapshots stand in `tests/snapshots/`, one file a
//! thing, small enough to be read against the fixture files; the doc comment of their test says what to
//! look at. A mismatch fails, and leaves a `.snap.new` beside the snapshot, which git ignores.

use insta::Settings;
use insta::internals::SettingsBindDropGuard;

/// A part of a text that differs from run to run, or from machine to machine.
struct Redaction {
    /// Regular expression of what is replaced.
    pattern: &'static str,
    /// What stands there instead; `$1` is the first group of the pattern.
    replacement: &'static str,
    #[expect(dead_code, reason = "for who reads this list")]
    why: &'static str,
}

/// Applied to every snapshot.
const REDACTIONS: &[Redaction] = &[
    Redaction {
        pattern: r"\boverlay-node(\.exe)?\b",
        replacement: "overlay",
        why: "tests run the command under the name that it has in this package",
    },
    Redaction {
        pattern: r": [^:\n]+ \(os error \d+\)",
        replacement: ": [the system's reason]",
        why: "every operating system has its own words and numbers",
    },
    Redaction {
        pattern: r"\b(\w+)-[0-9a-f]{16}-(\d+)-[0-9a-f]{16}\b",
        replacement: "$1-[incarnation]-$2-[random]",
        why: "a uid has the start of its node and random bits, so that no two are equal",
    },
    Redaction {
        pattern: r#"("incarnation": |incarnation: )\d+"#,
        replacement: "$1[incarnation]",
        why: "when a node started",
    },
    Redaction {
        pattern: r#"("query_ms_mean": )[0-9.e-]+"#,
        replacement: "$1[time taken]",
        why: "how long something took",
    },
    Redaction {
        pattern: r"(?m)\| +[0-9,]+\.\d \|$",
        replacement: "| [taken] |",
        why: "how long something took, in the table of metrics, whose columns stay in place",
    },
    Redaction {
        pattern: r#"("address":"127\.0\.0\.1:)\d+""#,
        replacement: "$1[port]\"",
        why: "a node that was told to listen at port 0 says which port it got",
    },
    Redaction {
        pattern: r"\bcommit \S+  driver\b",
        replacement: "commit [commit]  driver",
        why: "which commit a failed run was at",
    },
    Redaction {
        pattern: r#"(?m)^overlay_\w+_bucket\{(node="\w+",)?le="[0-9.]+"(,\w+="[^"]*")*\} \d+\n"#,
        replacement: "",
        why: "in which bucket of a histogram a time falls; the last, which has them all, stays",
    },
    Redaction {
        pattern: r"(_seconds_sum(?:\{.*\})?) [0-9.e-]+",
        replacement: "$1 [time taken]",
        why: "how long something took",
    },
    Redaction {
        pattern: r"(?m)^(overlay_compute_seconds_total\{.*\}) [0-9.e-]+",
        replacement: "$1 [time taken]",
        why: "how long something took",
    },
    Redaction {
        pattern: r#"(?m)^(overlay_marked_nodes(?:\{.*\})?) \d+"#,
        replacement: "$1 [not up when first asked]",
        why: "of nodes that start together some ask others too early, and avoid them until the next probe",
    },
    Redaction {
        pattern: r#"(?m)^(overlay_peer_requests_total\{.*\}) \d+"#,
        replacement: "$1 [probes too]",
        why: "neighbours are probed by the clock; how often before a query, nobody knows",
    },
    Redaction {
        pattern: r#"(?m)^(overlay_transit_bytes(?:\{.*\})?) \d+"#,
        replacement: "$1 [this request, and a probe's]",
        why: "the request for metrics is on its way itself, and neighbours are probed by the clock",
    },
];

/// The redactions of one test.
pub struct Redactions(Settings);

impl Redactions {
    /// Those that hold for every snapshot.
    #[expect(clippy::new_without_default, reason = "a test says that it redacts")]
    pub fn new() -> Self {
        let mut settings = Settings::clone_current();
        settings.set_omit_expression(true);
        for redaction in REDACTIONS {
            settings.add_filter(redaction.pattern, redaction.replacement);
        }
        Redactions(settings)
    }

    /// Shows the port of node `id` as `portA`, which is as wide as the ports that systems choose, so that tables
    /// keep their columns.
    pub fn port(mut self, id: &str, address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        self.0.add_filter(&format!(r"\b{}:{port}\b", host.replace('.', r"\.")), format!("{host}:port{id}"));
        self.0.add_filter(&format!(r"\b{host}\b {port}\b"), format!("{host} port{id}"));
        self
    }

    /// Shows `[name]` wherever `text` stands: an address that the system chose, a folder that is made anew.
    pub fn name(mut self, text: impl std::fmt::Display, name: &str) -> Self {
        let literal: String = text.to_string().chars().map(|letter| format!("[{letter}]")).collect();
        let literal = literal.replace("[\\]", r"\\").replace("[^]", r"\^");
        self.0.add_filter(&literal, format!("[{name}]"));
        self
    }

    /// Applies them to the snapshots that this thread takes while the guard lives.
    #[must_use = "dropping the guard ends the redactions"]
    pub fn bind(self) -> SettingsBindDropGuard {
        self.0.bind_to_scope()
    }
}
