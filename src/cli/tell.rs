//! What commands say beside their results, on standard error: lines for a person, or objects as the log has them.
//!
//! `OVERLAY_LOG_FORMAT=json` makes objects of all of it, so that a program can read standard error to its end. They are
//! written here and not by the logger: no level of `OVERLAY_LOG` is to keep a command from saying why it failed.

use std::fmt::Display;
use std::io::Write;

use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Whether standard error is for programs.
pub(crate) fn is_json() -> bool {
    std::env::var("OVERLAY_LOG_FORMAT").is_ok_and(|format| format == "json")
}

/// Writes a line to standard error, if anybody still reads it. It may begin with `note: ` or `warning: `.
pub(crate) fn tell(line: impl Display) {
    let line = line.to_string();
    if !is_json() {
        return write(&line);
    }
    let (kind, message) = match line.split_once(": ") {
        Some((kind @ ("note" | "warning"), message)) => (kind, message),
        _ => ("note", &*line),
    };
    write(&Value::from(event(kind, message)).to_string());
}

/// Says what went wrong, each cause of it, and the next step.
pub(crate) fn tell_with_help(kind: &str, message: &str, causes: &[String], help: Option<&str>) {
    if is_json() {
        let mut event = event(kind, message);
        if !causes.is_empty() {
            event.insert("causes".to_owned(), json!(causes));
        }
        event.extend(help.map(|help| ("help".to_owned(), json!(help))));
        return write(&Value::from(event).to_string());
    }
    let causes = causes.iter().map(|cause| format!("\n  caused by: {cause}")).collect::<String>();
    let help = help.map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    write(&format!("{kind}: {message}{causes}{help}"));
}

/// A line of a child's standard error as an object that names the process: `node` may be one that the line is about. What is
/// no object, as of a panic, becomes one.
pub(crate) fn of_process(id: &str, line: &str) -> String {
    let mut event = serde_json::from_str(line).unwrap_or_else(|_| event("error", line));
    event.insert("process".to_owned(), json!(id));
    Value::from(event).to_string()
}

/// As the log writes it.
fn event(kind: &str, message: &str) -> Map<String, Value> {
    let mut now = String::new();
    // Writing to memory fails for no reason that could be told.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    let level = match kind {
        "error" => "ERROR",
        "warning" => "WARN",
        _ => "INFO",
    };
    Map::from_iter([
        ("timestamp".to_owned(), json!(now)),
        ("level".to_owned(), json!(level)),
        ("message".to_owned(), json!(message)),
    ])
}

fn write(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_child_names_its_process() {
        let about_another = r#"{"level":"WARN","message":"node is avoided","node":"B"}"#;
        let told = r#"{"level":"WARN","message":"node is avoided","node":"B","process":"E"}"#;
        assert_eq!(of_process("E", about_another), told);
        for line in ["thread 'main' panicked", "7", ""] {
            let event: Value = serde_json::from_str(&of_process("E", line)).unwrap();
            let told = [&event["level"], &event["message"], &event["process"]];
            assert_eq!(told, ["ERROR", line, "E"]);
        }
    }
}
