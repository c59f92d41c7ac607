@echo off
rem Runs random scenarios in virtual time, in a release build: any topology, data, settings, queries and faults, each
rem answer held against the oracle. Ends at the first that fails, with the command that repeats it.
rem Usage: scripts\simulate [--seed SEED] [--seeds N] [--jobs N]   (default: a random seed, 100; Ctrl-C ends it)
setlocal
set "root=%~dp0.."
cargo run --release --manifest-path "%root%\Cargo.toml" --bin overlay-harness -- simulate %*
