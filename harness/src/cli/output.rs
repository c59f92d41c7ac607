//! What commands that measure check before they begin, and write when they end.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::Failure;
use crate::report::Origin;

/// A report as it is written: with what its figures are cited with.
#[derive(Serialize)]
struct Published<'a, R> {
    #[serde(flatten)]
    origin: &'a Origin,
    #[serde(flatten)]
    report: &'a R,
}

/// Checks the paths of a run over processes: its dataset, and where its report goes.
pub(super) fn check_paths(dataset_root: &Path, output: Option<&Path>) -> Result<(), Failure> {
    if !dataset_root.is_dir() {
        let root = dataset_root.display();
        return Err(Failure::usage(format!("dataset root {root} is not a folder that exists")));
    }
    output.map_or(Ok(()), check_folder)
}

/// Prints a report, and writes it as JSON where that is wanted.
pub(super) fn publish(
    report: &(impl Display + Serialize),
    origin: &Origin,
    output: Option<&Path>,
) -> Result<(), Failure> {
    print!("{report}");
    if let Some(path) = output {
        let published = Published { origin, report };
        println!("{}", write_file(path, &(serde_json::to_string_pretty(&published)? + "\n"))?.trim_end());
    }
    Ok(())
}

/// A run is not to end with figures that cannot be written.
pub(super) fn check_folder(file: &Path) -> Result<(), Failure> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let folder = folder.display();
            Err(Failure::usage(format!(
                "cannot write {}: `{folder}` is not a folder that exists",
                file.display()
            )))
        }
        _ => Ok(()),
    }
}

/// Writes a file, and says so.
pub(super) fn write_file(path: &Path, text: &str) -> Result<String, Failure> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(format!("written to {}\n", path.display()))
}
