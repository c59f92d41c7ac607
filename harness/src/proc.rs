//! What Linux says of a process in `/proc`: memory and processor time. Where there is no such folder it is unknown.

use std::fs;
use std::time::Duration;

/// Linux counts processor time in hundredths of a second, whatever its own clock does.
const MS_PER_TICK: u64 = 10;

/// The most bytes of memory that a process had resident so far.
pub fn peak_bytes(pid: u32) -> Option<u64> {
    memory_bytes(pid, "VmHWM:")
}

/// The bytes of memory that a process has resident now.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    memory_bytes(pid, "VmRSS:")
}

fn memory_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(memory.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// What a process has used of the processor so far.
pub fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command's name in brackets, which may have blanks, times in user and in system mode are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis(ticks.sum::<Option<u64>>()? * MS_PER_TICK))
}
