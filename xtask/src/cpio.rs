//! Writes the one archive format that the kernel unpacks into its root file system: cpio "newc".
//!
//! An entry is a header of ASCII hex, the name, the data; name and data end on a multiple of four.
//!
//! ```text
//! 070701 ino mode nlink uid gid mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!        (eight hex digits each)       name NUL pad       data pad
//! ```
//!
//! Archives may follow one another in one file (`Documentation/driver-api/early-userspace/
//! buffer-format.rst`), so the large part of an initramfs is made once and a test's part appended.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written. Parent directories are added when they are first needed.
pub struct Archive {
    out: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    pub fn new() -> Self {
        Self {
            out: Vec::new(),
            names: BTreeSet::new(),
        }
    }

    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if !path.is_empty() && !self.names.contains(path) {
            self.entry(path, DIRECTORY | 0o755, &[]);
        }
    }

    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.entry(path.trim_matches('/'), REGULAR | permissions, data);
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path.trim_matches('/'), SYMLINK | 0o777, target.as_bytes());
    }

    pub fn contains(&self, path: &str) -> bool {
        self.names.contains(path.trim_matches('/'))
    }

    /// The whole archive with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw("TRAILER!!!", 0, 0, &[]);
        self.out
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.names.insert(path.to_owned());
        let inode = self.names.len() as u32;
        self.raw(path, inode, mode, data);
    }

    fn raw(&mut self, name: &str, inode: u32, mode: u32, data: &[u8]) {
        use std::io::Write as _;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (data.len(), name.len() + 1);
        write!(
            self.out,
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}{name}\0",
            0
        )
        .expect("a vector takes every write");
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of the header at `at`, and where its data begins.
    fn header(data: &[u8], at: usize) -> (Vec<u32>, String, usize) {
        assert_eq!(&data[at..at + 6], b"070701");
        let field = |i: usize| {
            let text = std::str::from_utf8(&data[at + 6 + 8 * i..at + 14 + 8 * i]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let fields: Vec<u32> = (0..13).map(field).collect();
        let end = at + 110 + fields[11] as usize;
        let name = String::from_utf8(data[at + 110..end - 1].to_vec()).unwrap();
        (fields, name, end.next_multiple_of(4))
    }

    #[test]
    fn entries_hold_their_name_mode_and_data_and_parents_come_first() {
        let mut archive = Archive::new();
        archive.file("/a/b/file", 0o755, b"hello");
        archive.symlink("/a/link", "b/file");
        archive.directory("/a");
        let data = archive.finish();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let (fields, name, start) = header(&data, at);
            let end = start + fields[6] as usize;
            seen.push((name, fields[1], data[start..end].to_vec()));
            at = end.next_multiple_of(4);
        }
        let expected = [
            ("a", 0o040_755, &b""[..]),
            ("a/b", 0o040_755, b""),
            ("a/b/file", 0o100_755, b"hello"),
            ("a/link", 0o120_777, b"b/file"),
            ("TRAILER!!!", 0, b""),
        ];
        assert_eq!(seen.len(), expected.len());
        for (got, want) in seen.iter().zip(expected) {
            assert_eq!((got.0.as_str(), got.1, got.2.as_slice()), want);
        }
    }
}
