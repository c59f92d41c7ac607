//! A copy of the project in which mutants are tried out, so that nobody's files are touched.
//!
//! It lies below `target/` and stays, with what was built: the next run brings it up to date, whatever an
//! interrupted one left in it, and builds only what changed. Two runs at once would put their faults into the same files:
//! the second is refused. Where there is `setpriv`, on Linux, cargo and the tests end with whoever started them; a compiler
//! that is at work then comes to the end of its crate.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Killer, Mutant};

/// Longest run of some tests: random scenarios take a minute, and another to shrink; on busy cores twice as long.
const PATIENCE: Duration = Duration::from_secs(360);
/// Between two looks at whether tests have ended.
const LOOK: Duration = Duration::from_millis(20);
/// Lines shown of an output that nobody expected.
const SHOWN_LINES: usize = 40;

/// What became of a mutant, or of no mutant, under its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every test passed.
    Passed,
    /// Every test failed.
    Failed,
    /// Some tests failed, and these did not.
    SomePassed(Vec<String>),
    /// The lines are not in the file exactly once.
    DoesNotApply,
    /// The compiler refuses it; the end of what it says.
    DoesNotCompile(String),
    /// Some tests neither passed nor failed: they ended early, took too long, or do not exist. The end of what they said.
    Unclear(String),
}

/// What starts a program so that it is killed when the process that started it is gone, however that ended.
const LAUNCHER: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// The copy could not be made, or nothing could be started in it.
#[derive(Debug, thiserror::Error)]
pub enum WorkingCopyError {
    /// A file or folder of the copy, or what it is made from.
    #[error("cannot copy `{}`: {why}", path.display())]
    Copy {
        /// Which one.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// Another run uses the copy.
    #[error("cannot use `{}`: another run is at work there", folder.display())]
    Taken {
        /// Where the copy is.
        folder: PathBuf,
    },
    /// A command that cannot be run at all.
    #[error("cannot run `{command}`: {why}")]
    Run {
        /// The command.
        command: String,
        /// Why not.
        why: String,
    },
}

/// See the module.
#[derive(Debug)]
pub struct WorkingCopy {
    source: PathBuf,
    build: PathBuf,
    output: PathBuf,
    launcher: &'static [&'static str],
    /// Locked as long as it is open.
    _lock: File,
}

/// A test target that was built.
struct Executable {
    path: PathBuf,
    package: PathBuf,
}

impl WorkingCopy {
    /// Copies the files of `project` that git tracks or would track, as they are now, below its `target/mutants`.
    ///
    /// # Errors
    /// [`WorkingCopyError`]; a project outside git cannot be copied.
    pub fn of(project: &Path) -> Result<Self, WorkingCopyError> {
        let folder = project.join("target/mutants");
        let copy = WorkingCopy {
            _lock: lock(&folder)?,
            source: folder.join("source"),
            build: folder.join("build"),
            output: folder.join("output"),
            launcher: launcher(),
        };
        let files = listed(project)?;
        for file in files_below(&copy.source)? {
            if !files.contains(&file) {
                let path = copy.source.join(file);
                fs::remove_file(&path).map_err(|why| WorkingCopyError::Copy { path, why })?;
            }
        }
        for file in &files {
            copy_if_changed(&project.join(file), &copy.source.join(file))
                .map_err(|why| WorkingCopyError::Copy { path: project.join(file), why })?;
        }
        Ok(copy)
    }

    /// Runs tests on the project as it is; a verdict for each of `killers`.
    ///
    /// # Errors
    /// [`WorkingCopyError`] if nothing could be started.
    pub fn check(&self, killers: &[Killer]) -> Result<Vec<Verdict>, WorkingCopyError> {
        let targets: BTreeSet<&str> = killers.iter().map(|killer| killer.target.as_str()).collect();
        match self.build(&targets)? {
            Ok(built) => killers.iter().map(|killer| self.run(killer, &built)).collect(),
            Err(said) => Ok(vec![Verdict::DoesNotCompile(said); killers.len()]),
        }
    }

    /// Runs the tests of a mutant on the project with its fault, and takes the fault out again; a verdict for each
    /// of its killers.
    ///
    /// # Errors
    /// [`WorkingCopyError`] if nothing could be started.
    pub fn try_out(&self, mutant: &Mutant) -> Result<Vec<Verdict>, WorkingCopyError> {
        let path = self.source.join(&mutant.file);
        let failed = |why| WorkingCopyError::Copy { path: path.clone(), why };
        let text = fs::read_to_string(&path).map_err(failed)?;
        let Some(faulty) = mutant.apply(&text) else {
            return Ok(vec![Verdict::DoesNotApply; mutant.killers.len()]);
        };
        fs::write(&path, faulty).map_err(failed)?;
        let verdicts = self.check(&mutant.killers);
        fs::write(&path, text).map_err(failed)?;
        verdicts
    }

    /// Builds test targets; the inner error is the end of what the compiler says.
    fn build(&self, targets: &BTreeSet<&str>) -> Result<Result<Built, String>, WorkingCopyError> {
        let mut cargo = self.command("cargo");
        cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        for target in targets {
            match *target {
                "lib" => cargo.arg("--lib"),
                name => cargo.args(["--test", name]),
            };
        }
        // Backtraces are read by nobody, and links are twice as fast without.
        cargo.env("CARGO_TARGET_DIR", &self.build).env("CARGO_PROFILE_DEV_DEBUG", "0");
        let (status, said) = self.finish(cargo.current_dir(&self.source), Duration::MAX)?;
        Ok(match status.is_some_and(|status| status.success()) {
            true => Ok(said.lines().filter_map(executable).collect()),
            false => Err(end_of(&said)),
        })
    }

    fn run(&self, killer: &Killer, built: &Built) -> Result<Verdict, WorkingCopyError> {
        let Some(executable) = built.get(&killer.target) else {
            return Ok(Verdict::Unclear(format!("there is no test target `{}`", killer.target)));
        };
        let mut tests = self.command(&executable.path);
        tests.arg("--exact").args(&killer.tests).current_dir(&executable.package);
        tests.env_remove("OVERLAY_DATASET").env("INSTA_UPDATE", "no").env("RUST_BACKTRACE", "0");
        // The same inputs for a property on each run; that they shrink helps nobody here.
        tests.env("PROPTEST_RNG_SEED", "2020").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        let (_, said) = self.finish(&mut tests, PATIENCE)?;
        let with = |outcome: &str| -> Vec<String> {
            let said = |test: &&String| said.lines().any(|line| line == format!("test {test} ... {outcome}"));
            killer.tests.iter().filter(said).cloned().collect()
        };
        let (passed, failed) = (with("ok"), with("FAILED"));
        Ok(match (passed.len(), failed.len()) {
            (passed, failed) if passed + failed < killer.tests.len() => Verdict::Unclear(end_of(&said)),
            (_, 0) => Verdict::Passed,
            (0, _) => Verdict::Failed,
            _ => Verdict::SomePassed(passed),
        })
    }

    /// A program that does not outlive this process, where that can be had.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.launcher {
            [launcher, words @ ..] => {
                let mut command = Command::new(launcher);
                command.args(words).arg(program);
                command
            }
            [] => Command::new(program),
        }
    }

    /// Runs a command to its end, or until it took too long; gives what it said, to both outputs.
    fn finish(
        &self,
        command: &mut Command,
        patience: Duration,
    ) -> Result<(Option<ExitStatus>, String), WorkingCopyError> {
        let shown = format!("{command:?}");
        let failed = |why: io::Error| WorkingCopyError::Run { command: shown.clone(), why: why.to_string() };
        // A file, since nobody reads a pipe while the command runs.
        let output = File::create(&self.output).map_err(failed)?;
        command.stdout(output.try_clone().map_err(failed)?).stderr(output);
        let mut child = command.spawn().map_err(failed)?;
        let status = wait(&mut child, patience).map_err(failed)?;
        let said = fs::read(&self.output).map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }
}

/// By target, see [`Killer::target`].
type Built = BTreeMap<String, Executable>;

/// The test target of a line of cargo's messages, if it tells of one.
fn executable(line: &str) -> Option<(String, Executable)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?;
    let (name, kind) = (message["target"]["name"].as_str()?, message["target"]["kind"][0].as_str()?);
    let name = match (kind, name) {
        ("test", name) => name,
        ("lib", "overlay") => "lib",
        _ => return None,
    };
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some((name.to_owned(), Executable { path: path.into(), package: package.to_owned() }))
}

/// How it ended; `None` if it had to be ended.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// The lock of a folder, which is made if it is not there.
fn lock(folder: &Path) -> Result<File, WorkingCopyError> {
    let path = folder.join("lock");
    let opened = fs::create_dir_all(folder).and_then(|()| File::create(&path));
    let locked = opened.map_err(TryLockError::Error).and_then(|file| file.try_lock().map(|()| file));
    locked.map_err(|failed| match failed {
        TryLockError::WouldBlock => WorkingCopyError::Taken { folder: folder.to_owned() },
        TryLockError::Error(why) => WorkingCopyError::Copy { path, why },
    })
}

/// [`LAUNCHER`], or nothing where there is none.
fn launcher() -> &'static [&'static str] {
    let [launcher, words @ ..] = LAUNCHER;
    let tried = Command::new(launcher).args(words).arg("true").stderr(Stdio::null()).status();
    match tried.is_ok_and(|status| status.success()) {
        true => &LAUNCHER,
        false => &[],
    }
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// The files of a project, from its root: without what git ignores.
fn listed(project: &Path) -> Result<BTreeSet<PathBuf>, WorkingCopyError> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(project);
    let failed = |why: String| WorkingCopyError::Run { command: "git ls-files".to_owned(), why };
    let output = git.output().map_err(|why| failed(why.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = names.split_terminator('\0').map(PathBuf::from);
    // What was deleted, and is tracked still, is listed too.
    Ok(paths.filter(|path| project.join(path).is_file()).collect())
}

/// The files of a copy, from its root.
fn files_below(root: &Path) -> Result<Vec<PathBuf>, WorkingCopyError> {
    let failed = |path: &Path, why| WorkingCopyError::Copy { path: path.to_owned(), why };
    fs::create_dir_all(root).map_err(|why| failed(root, why))?;
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|why| failed(&folder, why))? {
            let path = entry.map_err(|why| failed(&folder, why))?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.extend(path.strip_prefix(root).map(Path::to_owned)),
            }
        }
    }
    Ok(files)
}

/// Cargo builds again what was written, so what is equal is left alone.
fn copy_if_changed(from: &Path, to: &Path) -> io::Result<()> {
    if fs::read(to).is_ok_and(|old| fs::read(from).is_ok_and(|new| old == new)) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).map(drop)
}
