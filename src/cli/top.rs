//! `overlay top`: what every node of a configuration does, live.

mod rates;

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};

use super::credentials::CredentialArgs;
use super::metrics::ask_all;
use super::{Failure, read_overlay, runtime};

use self::rates::{Moment, fitted, screen};

/// Show what every node does, live.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay top
  overlay top --config configs/two_hosts_config.json --every 5

q or Ctrl-C ends it. p50 and p99 are times of queries that a client asked this node since the last look; share is the part \
of all rows scanned. A node that did not answer the last look has no rates yet. Classes of clients are those that `clients` \
of the configuration names; all others are `other`.")]
pub(crate) struct Top {
    /// The configuration whose processes to watch
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json")]
    config: PathBuf,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    credentials: CredentialArgs,
}

impl Top {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if !stdout().is_terminal() {
            return Err(Failure::with_help(
                "standard output is no terminal",
                "`overlay metrics --all` prints once",
            ));
        }
        let overlay = read_overlay(&self.config, None)?;
        let security = self.credentials.security_in(&overlay)?;
        let (sender, looks) = mpsc::sync_channel(1);
        let every = Duration::from_secs(self.every);
        let runtime = runtime()?;
        // Asking may take its time, while keys are answered at once.
        runtime.spawn(async move {
            loop {
                let began = Instant::now();
                let look = Moment::new(began, ask_all(&overlay, &security).await);
                if sender.send(look).is_err() {
                    return;
                }
                tokio::time::sleep(every.saturating_sub(began.elapsed())).await;
            }
        });
        let screen = Screen::open()?;
        let watched = watch(&looks);
        drop(screen);
        runtime.shutdown_background();
        watched
    }
}

/// Draws one look after the other until the user has seen enough.
fn watch(looks: &mpsc::Receiver<Moment>) -> Result<(), Failure> {
    let (mut before, mut now) = (None, None);
    loop {
        match looks.recv_timeout(Duration::from_millis(50)) {
            Ok(look) => {
                (before, now) = (now, Some(look));
                draw(before.as_ref(), now.as_ref())?;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Resize(..) => draw(before.as_ref(), now.as_ref())?,
                _ => {}
            }
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

fn draw(before: Option<&Moment>, now: Option<&Moment>) -> std::io::Result<()> {
    let Some(now) = now else { return Ok(()) };
    let (columns, rows) = terminal::size()?;
    let lines = fitted(&screen(before, now, columns.into()), columns.into(), rows.into());
    let mut out = stdout().lock();
    queue!(out, terminal::BeginSynchronizedUpdate)?;
    let nothing = std::iter::repeat(String::new());
    for (row, line) in (0..rows).zip(lines.into_iter().chain(nothing)) {
        // Cleared first: behind a line as wide as the terminal the cursor still stands on its last letter.
        let clear = terminal::Clear(terminal::ClearType::UntilNewLine);
        queue!(out, cursor::MoveTo(0, row), clear, style::Print(line))?;
    }
    queue!(out, terminal::EndSynchronizedUpdate)?;
    out.flush()
}

/// The terminal, which is as it was once this is dropped.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Screen;
        execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that is gone.
        let _ = execute!(stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}
