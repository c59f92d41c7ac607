@echo off
rem Starts the processes of configs\two_hosts_config.json that belong to this host; builds them first if needed.
rem Usage: scripts\start_two_hosts HOST_ADDRESS [--dataset-root DIR] [...]   (192.168.1.1 or 192.168.1.2)
setlocal
if "%~1"=="" (
    echo usage: scripts\start_two_hosts HOST_ADDRESS [options of overlay up] 1>&2
    exit /b 2
)
set "root=%~dp0.."
cargo run --release --manifest-path "%root%\Cargo.toml" --bin overlay -- ^
    up --config "%root%\configs\two_hosts_config.json" --host %*
