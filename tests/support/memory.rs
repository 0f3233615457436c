//! The memory of a process that runs, as its machine's root sees it.

use std::{fs::File, io::Read, os::unix::fs::FileExt};

/// How often `needle` stands in the readable memory of a process.
pub fn occurrences(pid: u32, needle: &[u8]) -> usize {
    let mut maps = String::new();
    File::open(format!("/proc/{pid}/maps")).and_then(|mut file| file.read_to_string(&mut maps)).expect("read the maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("open the memory: the test needs root");
    maps.lines().filter_map(|line| region(line, &memory)).map(|bytes| count(&bytes, needle)).sum()
}

/// The bytes of a region that may be read. The kernel's own pages in it are not the process's.
fn region(line: &str, memory: &File) -> Option<Vec<u8>> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") || line.ends_with("[vvar_vclock]") {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let mut bytes = vec![0; usize::try_from(to - from).ok()?];
    let mut read = 0;
    while read < bytes.len() {
        // A region may be gone meanwhile, or end in pages that are not there.
        match memory.read_at(&mut bytes[read..], from + read as u64) {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    bytes.truncate(read);
    Some(bytes)
}

fn count(bytes: &[u8], needle: &[u8]) -> usize {
    let (mut found, mut from) = (0, 0);
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == needle[0]) {
        found += usize::from(bytes[from + at..].starts_with(needle));
        from += at + 1;
    }
    found
}
