//! A layer: a tar whose bytes depend on its entries alone, so that the same content has the same digest everywhere.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// What lies at one path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory { mode: u32 },
    Link { target: String },
    Bytes { content: Vec<u8>, mode: u32 },
    Copy { from: PathBuf, mode: u32 },
}

/// The entries of a layer by path, without a leading slash; parents are made where they are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Adds an entry; the first at a path stays.
    pub(crate) fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.entry(path.to_owned()).or_insert(entry);
    }

    /// Writes the layer as a tar.
    pub(crate) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let mut put = |header: &mut Header, kind, mode, size, content: &mut dyn Read| {
                header.set_entry_type(kind);
                header.set_mode(mode);
                header.set_size(size);
                tar.append_data(header, path, content)
            };
            match entry {
                Entry::Directory { mode } => {
                    put(&mut header, EntryType::Directory, *mode, 0, &mut io::empty())?;
                }
                Entry::Bytes { content, mode } => {
                    put(
                        &mut header,
                        EntryType::Regular,
                        *mode,
                        content.len() as u64,
                        &mut content.as_slice(),
                    )?;
                }
                Entry::Copy { from, mode } => {
                    let file = File::open(from).map_err(|e| named(e, from))?;
                    let size = file.metadata()?.len();
                    put(
                        &mut header,
                        EntryType::Regular,
                        *mode,
                        size,
                        &mut Exactly { inner: file, left: size, from },
                    )?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.finish()
    }

    /// Digest and size of what [`Self::write`] writes.
    pub(crate) fn measure(&self) -> io::Result<(String, u64)> {
        let mut hash = Hashing::new(io::sink());
        self.write(io::BufWriter::with_capacity(1 << 16, &mut hash))?;
        Ok(hash.finish())
    }
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A file that is an error if it changes its size while it is read.
struct Exactly<'a> {
    inner: File,
    left: u64,
    from: &'a Path,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.inner.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            return Err(named(io::Error::new(io::ErrorKind::UnexpectedEof, "became shorter"), self.from));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Hashes and counts what goes through.
pub(crate) struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// `sha256:…` and the number of bytes.
    pub(crate) fn finish(self) -> (String, u64) {
        (format!("sha256:{:x}", self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Digest of bytes at hand.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_entries_make_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("f");
        std::fs::write(&from, "content").expect("written");
        let make = |reverse: bool| {
            let mut entries = vec![
                ("/bin/a", Entry::Copy { from: from.clone(), mode: 0o755 }),
                ("/bin/b", Entry::Link { target: "a".into() }),
                ("/etc/passwd", Entry::Bytes { content: b"root".to_vec(), mode: 0o644 }),
                ("/tmp", Entry::Directory { mode: 0o1777 }),
            ];
            if reverse {
                entries.reverse();
            }
            let mut layer = Layer::default();
            for (path, entry) in entries {
                layer.add(path, entry);
            }
            layer
        };
        assert_eq!(make(false), make(true));
        let mut bytes = Vec::new();
        make(false).write(&mut bytes).expect("written");
        assert_eq!(make(true).measure().expect("measured"), (digest(&bytes), bytes.len() as u64));

        let mut archive = tar::Archive::new(bytes.as_slice());
        let listed: Vec<_> = archive
            .entries()
            .expect("a tar")
            .map(|e| {
                let e = e.expect("an entry");
                let mode = e.header().mode().expect("a mode");
                format!("{} {mode:o} {:?}", e.path().expect("a path").display(), e.header().entry_type())
            })
            .collect();
        assert_eq!(
            listed,
            [
                "bin 755 Directory",
                "bin/a 755 Regular",
                "bin/b 777 Symlink",
                "etc 755 Directory",
                "etc/passwd 644 Regular",
                "tmp 1777 Directory",
            ]
        );
    }
}
