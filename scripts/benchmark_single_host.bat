@echo off
rem Measures the leader of configs\one_host_config.json; writes benchmark_results.json in the current folder.
rem Usage: scripts\benchmark_single_host [REQUESTS] [CONCURRENCY]   (default: 200 20)
setlocal
set "root=%~dp0.."
if "%~1"=="" (set "requests=200") else (set "requests=%~1")
if "%~2"=="" (set "users=20") else (set "users=%~2")
cargo run --release --manifest-path "%root%\Cargo.toml" --bin overlay-harness -- ^
    load --host http://127.0.0.1:60051 --requests %requests% --users %users% --output benchmark_results.json
