@echo off
rem Measures the leader of configs\two_hosts_config.json; writes benchmark_results_two_hosts.json in the current folder.
rem Usage: scripts\benchmark_two_hosts [HOST] [PORT] [REQUESTS] [CONCURRENCY]   (default: 192.168.1.2 60051 200 20)
setlocal
set "root=%~dp0.."
if "%~1"=="" (set "host=192.168.1.2") else (set "host=%~1")
if "%~2"=="" (set "port=60051") else (set "port=%~2")
if "%~3"=="" (set "requests=200") else (set "requests=%~3")
if "%~4"=="" (set "users=20") else (set "users=%~4")
cargo run --release --manifest-path "%root%\Cargo.toml" --bin overlay-harness -- ^
    load --host http://%host%:%port% --requests %requests% --users %users% ^
    --output benchmark_results_two_hosts.json
