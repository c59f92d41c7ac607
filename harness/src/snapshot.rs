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

    /// Applies them to the snapshots that this thread takes while the guard lives.
    #[must_use = "dropping the guard ends the redactions"]
    pub fn bind(self) -> SettingsBindDropGuard {
        self.0.bind_to_scope()
    }
}
