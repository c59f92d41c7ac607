//! Folders for files that nobody keeps, which are removed however their process ends.
//!
//! A folder is removed when it is dropped. A process that is killed, by Ctrl-C say, drops nothing; so a folder is named
//! after its process, and whoever makes the next one removes those of processes that are gone. This asks `/proc`: where
//! there is none, on other systems than Linux, what killed processes leave stays.

use std::io;
use std::path::Path;

use tempfile::{Builder, TempDir};

/// What the names of all these folders begin with.
const PREFIX: &str = "overlay-harness-";

/// A new folder below the system's place for temporary files.
///
/// # Errors
/// If the file system refuses it. What cannot be removed of others stays, and is no error.
pub fn folder() -> io::Result<TempDir> {
    folder_below(&std::env::temp_dir())
}

/// A new folder in a place of the caller's choice, where there is more room, say.
///
/// # Errors
/// As [`folder`].
pub fn folder_below(place: &Path) -> io::Result<TempDir> {
    #[cfg(target_os = "linux")]
    leftovers::remove(place)?;
    Builder::new().prefix(&format!("{PREFIX}{}", owner()?)).tempdir_in(place)
}

/// What tells this process from all others, as part of a name.
#[cfg(target_os = "linux")]
fn owner() -> io::Result<String> {
    Ok(format!("{}-{}-", leftovers::process_namespace()?, std::process::id()))
}

#[cfg(not(target_os = "linux"))]
fn owner() -> io::Result<String> {
    Ok(format!("{}-", std::process::id()))
}

#[cfg(target_os = "linux")]
mod leftovers {
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::PREFIX;

    /// Numbers of processes differ inside one of these alone, and `/proc` knows no others.
    pub(super) fn process_namespace() -> io::Result<u64> {
        Ok(fs::metadata("/proc/self/ns/pid")?.ino())
    }

    /// Removes the folders of processes that are gone.
    pub(super) fn remove(below: &Path) -> io::Result<()> {
        let ours = format!("{PREFIX}{}-", process_namespace()?);
        for entry in fs::read_dir(below)?.flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(&ours)?.split('-').next());
            if process.is_some_and(is_gone) {
                // Another process may be removing it at the same time, or it may be somebody else's.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn is_gone(process: &str) -> bool {
        !Path::new("/proc").join(process).exists()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    /// Makes the test that it is set for make a folder and wait to be killed.
    const WAIT_TO_BE_KILLED: &str = "OVERLAY_WAIT_TO_BE_KILLED";

    /// Method: this test runs itself in a process of its own, which makes a folder, prints where, and is killed.
    #[test]
    fn folder_of_a_killed_process_is_removed_with_the_next_one_made_and_no_other() {
        if std::env::var_os(WAIT_TO_BE_KILLED).is_some() {
            let folder = folder().unwrap();
            std::fs::write(folder.path().join("file"), "text").unwrap();
            // On a line of its own, whatever libtest has begun to say.
            println!("\nfolder {}", folder.path().display());
            std::io::stdin().lines().next();
            return;
        }
        let ours = folder().unwrap();
        let test =
            "scratch::tests::folder_of_a_killed_process_is_removed_with_the_next_one_made_and_no_other";
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(WAIT_TO_BE_KILLED, "yes")
            // It ends when this process does, if it is not killed before.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
        let theirs = lines.find_map(|line| line.strip_prefix("folder ").map(PathBuf::from)).unwrap();
        let stands = || (ours.path().exists(), theirs.join("file").exists());
        drop(folder().unwrap());
        assert_eq!(stands(), (true, true), "while both processes live");
        owner.kill().unwrap();
        owner.wait().unwrap();
        drop(folder().unwrap());
        assert_eq!(stands(), (true, false), "when the other was killed");
        assert!(!theirs.exists());
    }

    #[test]
    fn dropped_folder_is_gone() {
        let folder = folder().unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
