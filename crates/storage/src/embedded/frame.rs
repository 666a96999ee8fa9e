//! The container of everything on disk: files that begin with a header and go on with checked frames.
//!
//! ```text
//! file   = header frame*
//! header = magic[8] version:u32 salt:u32 number:u64 frame:u64 crc:u32                  (36 bytes)
//! frame  = salt:u32 length:u32 crc:u32 number:u64 payload[length]                      (20 bytes and the payload)
//! ```
//! All numbers are little-endian. A frame is one group of writes, made durable as a whole: when a later frame is
//! whole, every frame before it was acknowledged. Frames are numbered without gaps across files. Each file has its own
//! random salt, so that bytes a client stored can never pass for a frame.
//!
//! A backup is a snapshot under another magic, with the number 0.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::OpenError;

/// The version of the format this code writes. Version 2 added the record `left`.
pub(super) const VERSION: u32 = 2;
/// The oldest version it reads.
pub(super) const OLDEST: u32 = 1;
pub(super) const HEADER: usize = 36;
pub(super) const FRAME_HEADER: usize = 20;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Log,
    Snapshot,
    Backup,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Log => *b"COXWLOG\n",
            Self::Snapshot => *b"COXWSNP\n",
            Self::Backup => *b"COXWBAK\n",
        }
    }
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: FileKind,
    /// The version of the format of this file.
    pub version: u32,
    pub salt: u32,
    /// The number of the file, as in its name.
    pub number: u64,
    /// The number of the first frame.
    pub frame: u64,
}

impl Header {
    pub(super) fn new(kind: FileKind, number: u64, frame: u64) -> Self {
        let salt = RandomState::new().build_hasher().finish() as u32;
        Self { kind, version: VERSION, salt, number, frame }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.kind.magic());
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.frame.to_le_bytes());
        let crc = crc32fast::hash(&out[..32]);
        out[32..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER], kind: FileKind) -> Result<Self, BadHeader> {
        if bytes[..8] != kind.magic() {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(bytes, 8);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(BadHeader::Version(version));
        }
        if u32_at(bytes, 32) != crc32fast::hash(&bytes[..32]) {
            return Err(BadHeader::Damaged);
        }
        let (salt, number, frame) = (u32_at(bytes, 12), u64_at(bytes, 16), u64_at(bytes, 24));
        Ok(Self { kind, version, salt, number, frame })
    }
}

enum BadHeader {
    Damaged,
    Version(u32),
}

/// Begins a frame in `out`; the payload is appended next, then [`seal`] completes it.
pub(super) fn begin(out: &mut Vec<u8>, salt: u32, number: u64) {
    out.clear();
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Fills in length and checksum of the frame in `out`.
pub(super) fn seal(out: &mut [u8]) {
    let length = (out.len() - FRAME_HEADER) as u32;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(u32_at(out, 0), &out[4..8], &out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(salt: u32, length: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(length);
    hasher.update(rest);
    hasher.finalize()
}

/// What frames are read from: a file, or bytes in memory.
pub(super) trait Source: Read + Seek {}
impl<S: Read + Seek> Source for S {}

/// Reads the frames of a file one after the other.
pub(super) struct FrameReader<S> {
    source: S,
    path: PathBuf,
    header: Header,
    size: u64,
    offset: u64,
    next: u64,
    payload: Vec<u8>,
}

/// The outcome of reading the next frame.
pub(super) enum Next<'a> {
    Frame(&'a [u8]),
    End,
    /// The bytes at this offset are no frame, and there is no later one.
    Torn {
        offset: u64,
    },
}

/// The outcome of opening a file.
pub(super) enum Opened<S> {
    Reader(FrameReader<S>),
    /// The file ends within its header or the header is not whole, and nothing follows.
    Torn,
}

/// A file that is read as it is now; what is appended later is not seen.
pub(super) type FileSource = BufReader<File>;

/// Opens the file of this name for [`read`].
pub(super) fn open(path: &Path) -> io::Result<(FileSource, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((BufReader::with_capacity(1 << 18, file), size))
}

/// Reads the header of a source of this size. The path is for errors only.
pub(super) fn read<S: Source>(
    (mut source, size): (S, u64),
    path: &Path,
    kind: FileKind,
    number: u64,
) -> Result<Opened<S>, OpenError> {
    let io = |source| OpenError::Io { action: "read", path: path.to_owned(), source };
    let mut bytes = [0; HEADER];
    if size < HEADER as u64 {
        return Ok(Opened::Torn);
    }
    source.read_exact(&mut bytes).map_err(io)?;
    let header = match Header::decode(&bytes, kind) {
        Ok(header) if header.number == number => header,
        Ok(_) => return Err(corrupt(path, 16, "the file has the number of another file")),
        Err(BadHeader::Version(found)) => {
            return Err(OpenError::OtherVersion { path: path.to_owned(), found: found.to_string() });
        }
        Err(BadHeader::Damaged) if size == HEADER as u64 => return Ok(Opened::Torn),
        Err(BadHeader::Damaged) => {
            return Err(corrupt(path, 0, "the header does not match its checksum"));
        }
    };
    let path = path.to_owned();
    let (offset, next) = (HEADER as u64, header.frame);
    Ok(Opened::Reader(FrameReader { source, path, header, size, offset, next, payload: Vec::new() }))
}

impl<S: Source> FrameReader<S> {
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next frame begins; after [`Next::End`], the end of the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the next frame.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// An error about the frame that was read last.
    pub(super) fn corrupt(&self, reason: &'static str) -> OpenError {
        corrupt(&self.path, self.offset, reason)
    }

    /// Reads the next frame. A frame of a log that is not whole but has a whole one behind it is an error: what was
    /// acknowledged has been damaged.
    pub(super) fn next(&mut self) -> Result<Next<'_>, OpenError> {
        let io = |path: &Path, source| OpenError::Io { action: "read", path: path.to_owned(), source };
        let read = match self.read() {
            // The file was cut since it was opened: by a server that had no space for the end of it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(false)),
            read => read,
        };
        match read {
            Ok(Some(true)) => Ok(Next::Frame(&self.payload)),
            Ok(Some(false)) => {
                // Other files are whole or damaged, whatever follows.
                let is_log = self.header.kind == FileKind::Log;
                if is_log && self.later_frame().map_err(|error| io(&self.path, error))? {
                    return Err(self.corrupt("a group of writes in the middle of the log is damaged"));
                }
                Ok(Next::Torn { offset: self.offset })
            }
            Ok(None) => Ok(Next::End),
            Err(error) => Err(io(&self.path, error)),
        }
    }

    fn read(&mut self) -> io::Result<Option<bool>> {
        let left = self.size - self.offset;
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME_HEADER as u64 {
            return Ok(Some(false));
        }
        let mut head = [0; FRAME_HEADER];
        self.source.read_exact(&mut head)?;
        let length = u32_at(&head, 4);
        let following = self.next.checked_add(1);
        if u32_at(&head, 0) != self.header.salt
            || u64_at(&head, 12) != self.next
            || u64::from(length) > left - FRAME_HEADER as u64
            || following.is_none()
        {
            return Ok(Some(false));
        }
        self.payload.resize(length as usize, 0);
        self.source.read_exact(&mut self.payload)?;
        let mut hasher = crc32fast::Hasher::new_with_initial(self.header.salt);
        hasher.update(&head[4..8]);
        hasher.update(&head[12..]);
        hasher.update(&self.payload);
        if hasher.finalize() != u32_at(&head, 8) {
            return Ok(Some(false));
        }
        self.offset += (FRAME_HEADER + self.payload.len()) as u64;
        self.next = following.unwrap_or(self.next);
        Ok(Some(true))
    }

    /// Whether a whole frame begins anywhere behind the present offset.
    fn later_frame(&mut self) -> io::Result<bool> {
        self.source.seek(SeekFrom::Start(self.offset))?;
        let mut rest = Vec::new();
        self.source.by_ref().take(self.size - self.offset).read_to_end(&mut rest)?;
        Ok((1..rest.len()).any(|at| {
            let frame = &rest[at..];
            frame.len() >= FRAME_HEADER
                && u32_at(frame, 0) == self.header.salt
                && u64_at(frame, 12) > self.next
                && frame
                    .get(12..FRAME_HEADER + u32_at(frame, 4) as usize)
                    .is_some_and(|rest| checksum(self.header.salt, &frame[4..8], rest) == u32_at(frame, 8))
        }))
    }
}

fn corrupt(path: &Path, offset: u64, reason: &'static str) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), offset, reason }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
