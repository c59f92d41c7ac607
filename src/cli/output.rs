//! Where a command's result goes: standard output, or a file that is there whole or not at all.

mod page;
mod rows;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

pub(crate) use page::{Page, terminal_width};
pub(crate) use rows::{Format, RowWriter, columns};

use super::table::thousands;

/// Where bytes go. Dropping it before [`Output::finish`] leaves no file behind.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    /// Written beside its name, and renamed at the end.
    file: Option<PartFile>,
}

struct PartFile {
    file: File,
    part: PathBuf,
    name: PathBuf,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Output { writer: BufWriter::with_capacity(1 << 16, Box::new(io::stdout().lock())), file: None }
    }

    /// The file `name`, which shows up, or changes, when it is finished; what is no plain file (a pipe, a
    /// device) is written at once.
    ///
    /// # Errors
    /// Which file, and why it cannot be written.
    pub(crate) fn file(name: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot write `{}`: {error}", name.display()))
        };
        // A link stays a link: the file that it leads to is replaced.
        let name = name.canonicalize().unwrap_or_else(|_| name.to_owned());
        if name.is_dir() {
            return Err(named(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if name.exists() && !name.is_file() {
            let file = File::options().write(true).open(&name).map_err(named)?;
            return Ok(Output { writer: BufWriter::new(Box::new(file)), file: None });
        }
        let file_name =
            name.file_name().ok_or_else(|| named(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let part = format!(".{}.{}.part", file_name.to_string_lossy(), std::process::id());
        let part = name.with_file_name(part);
        let file = File::create(&part).map_err(named)?;
        let writer = BufWriter::with_capacity(1 << 16, Box::new(file.try_clone()?) as Box<dyn Write>);
        Ok(Output { writer, file: Some(PartFile { file, part, name }) })
    }

    /// `file` if there is one, or else standard output.
    ///
    /// # Errors
    /// As [`Output::file`].
    pub(crate) fn new(file: Option<&Path>) -> io::Result<Self> {
        file.map_or_else(|| Ok(Output::stdout()), Output::file)
    }

    /// Writes out what is left; the file is there from now on.
    ///
    /// # Errors
    /// As writing.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()?;
        if let Some(PartFile { file, part, name }) = &self.file {
            // On the disk before it has its name: a crash leaves the old file or the new one.
            file.sync_all()?;
            std::fs::rename(part, name)?;
        }
        self.file = None;
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(PartFile { part, .. }) = &self.file {
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Whether what goes to standard output is read by a person.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `1 row`, `2,000 rows`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("rows.csv");
        let mut given_up = Output::file(&name).unwrap();
        given_up.write_all(b"half").unwrap();
        assert!(!name.exists());
        drop(given_up);
        assert_eq!(names(folder.path()), Vec::<String>::new());
        for content in ["first", "second"] {
            let mut output = Output::file(&name).unwrap();
            output.write_all(content.as_bytes()).unwrap();
            output.finish().unwrap();
            assert_eq!(std::fs::read_to_string(&name).unwrap(), content);
            assert_eq!(names(folder.path()), ["rows.csv"]);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in [folder.path().to_owned(), folder.path().join("none/rows.csv")] {
            let error = Output::file(&name).err().unwrap().to_string();
            assert!(error.starts_with(&format!("cannot write `{}", name.display())), "{error}");
        }
    }

    #[test]
    fn what_is_counted_has_its_plural() {
        assert_eq!([1, 2000].map(|count| counted(count, "row")), ["1 row", "2,000 rows"]);
    }
}
