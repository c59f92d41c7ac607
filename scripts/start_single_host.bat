@echo off
rem Starts the six processes of configs\one_host_config.json on this host; builds them first if needed.
rem Usage: scripts\start_single_host [--dataset-root DIR] [--profile PROFILE] [...]   (as `overlay up --help` says)
setlocal
set "root=%~dp0.."
cargo run --release --manifest-path "%root%\Cargo.toml" --bin overlay -- ^
    up --config "%root%\configs\one_host_config.json" %*
