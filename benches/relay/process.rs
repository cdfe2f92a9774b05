//! What processes cost, read from /proc: CPU of one or of a whole tree, and peak memory.

use std::collections::HashMap;

/// USER_HZ is 100 on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// The fields of /proc/<pid>/stat behind the command's name; `None`: the process has ended.
fn stat(pid: u32) -> Option<Vec<i64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat[stat.rfind(')')? + 2..].split(' ').skip(1);
    Some(fields.map(|field| field.trim().parse().unwrap_or(0)).collect())
}

// Behind the state: the parent is the first, utime and stime the 11th and 12th, those of reaped children follow.
const PARENT: usize = 0;
const OWN: std::ops::Range<usize> = 10..12;
const REAPED: std::ops::Range<usize> = 12..14;

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let fields = stat(pid).expect("the process lives");
    fields[OWN].iter().sum::<i64>() as f64 / TICKS_PER_SECOND
}

/// The same of a server whose children it reaps: the living ones and those that have ended.
pub fn tree_cpu_seconds(pid: u32) -> f64 {
    let mut processes = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(fields) = stat(id) {
            processes.insert(id, fields);
        }
    }
    let server = &processes[&pid];
    let ticks: i64 = server[OWN].iter().chain(&server[REAPED]).sum();
    let children = processes.values().filter(|fields| fields[PARENT] == i64::from(pid));
    let of_children: i64 =
        children.map(|fields| fields[OWN].iter().chain(&fields[REAPED]).sum::<i64>()).sum();
    (ticks + of_children) as f64 / TICKS_PER_SECOND
}

/// Peak memory in MB.
pub fn peak_megabytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
