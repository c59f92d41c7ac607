//! Another version of a dataset: some days have a row less, a row more, or a row that says something else.

use std::fs;
use std::path::Path;

use super::{DatasetError, create_empty, draws, io_error};
use crate::calendar;

/// Copies the dataset below `root` to `into`, which must be empty, with another first file on about half of its days. No
/// day comes or goes.
///
/// # Errors
/// [`DatasetError`] if `into` holds anything, or the file system refuses.
pub fn revise(root: &Path, into: &Path, seed: u64) -> Result<(), DatasetError> {
    create_empty(into)?;
    for folder in sorted(root)? {
        let Some(day) = folder.parse::<u32>().ok().filter(|day| calendar::date(*day).is_some()) else {
            continue;
        };
        let (from, to) = (root.join(&folder), into.join(&folder));
        fs::create_dir(&to).map_err(io_error(&to))?;
        let mut rng = draws(seed, &[u64::from(day)]);
        let mut is_revised = rng.bool();
        for name in sorted(&from)? {
            let (file, copy) = (from.join(&name), to.join(&name));
            let text = fs::read_to_string(&file).map_err(io_error(&file))?;
            let revised = if is_revised { revised(&mut rng, &text) } else { text };
            fs::write(&copy, revised).map_err(io_error(&copy))?;
            is_revised = false;
        }
    }
    Ok(())
}

/// The text of a file with one row changed, added or removed.
fn revised(rng: &mut fastrand::Rng, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(first) = lines.first().cloned() else { return String::new() };
    match rng.u8(..3) {
        0 => drop(lines.remove(0)),
        1 => lines.push(first),
        _ => {
            let mut fields: Vec<&str> = first.split("\",\"").collect();
            fields[VALUE] = if fields[VALUE] == "12.3" { "3.2" } else { "12.3" };
            lines[0] = fields.join("\",\"");
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The index of the concentration among the fields of a row.
const VALUE: usize = 4;

fn sorted(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder))?;
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let names: Result<Vec<String>, _> = entries.map(|entry| entry.map(name)).collect();
    let mut names = names.map_err(io_error(folder))?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DatasetSpec;
    use crate::oracle::{Oracle, TeamRange};

    /// Goal: some days differ, and some do not. Method: the oracle reads both.
    #[test]
    fn some_days_have_another_version_and_none_comes_or_goes() {
        let [root, into] = [0, 1].map(|_| crate::scratch::folder().unwrap());
        DatasetSpec { sites: 4, ..DatasetSpec::default() }.write(root.path()).unwrap();
        revise(root.path(), into.path(), 7).unwrap();
        let [old, new] =
            [&root, &into].map(|root| Oracle::read(root.path(), &TeamRange::green_and_pink()).unwrap());
        assert!(new.rejected().is_empty(), "{:?}", new.rejected());
        let (all, changed) = (sorted(root.path()).unwrap(), old.days_that_differ(&new));
        assert_eq!(sorted(into.path()).unwrap(), all);
        assert!(changed.len() > all.len() / 4 && changed.len() < all.len() * 3 / 4, "{changed:?}");
    }
}
