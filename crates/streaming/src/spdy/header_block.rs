//! SPDY header blocks: name-value lists in one zlib stream per direction, primed with a fixed dictionary.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Headers of a stream: lower-case names, in the order of the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from names and values; names are lower-cased, as SPDY demands.
    pub fn new<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.as_ref().to_ascii_lowercase(), value.into()))
                .collect(),
        )
    }

    /// The first value of a header, whatever the case of `name`; empty values count as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        value.split('\0').next().filter(|first| !first.is_empty())
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u32(self.0.len() as u32);
        for (name, value) in &self.0 {
            for part in [name, value] {
                out.put_u32(part.len() as u32);
                out.put_slice(part.as_bytes());
            }
        }
        out
    }

    fn decode(mut block: Bytes) -> Result<Self, HeaderError> {
        // Each header takes at least eight bytes, so that a count cannot promise more than the block holds.
        let count = block.try_get_u32().map_err(|_| HeaderError::Truncated)? as usize;
        if count > block.remaining() / 8 {
            return Err(HeaderError::Truncated);
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = take_string(&mut block)?;
            let value = take_string(&mut block)?;
            headers.push((name.to_ascii_lowercase(), value));
        }
        Ok(Self(headers))
    }
}

fn take_string(block: &mut Bytes) -> Result<String, HeaderError> {
    let len = block.try_get_u32().map_err(|_| HeaderError::Truncated)? as usize;
    if len > block.remaining() {
        return Err(HeaderError::Truncated);
    }
    String::from_utf8(block.split_to(len).to_vec()).map_err(|_| HeaderError::NotText)
}

/// Why a header block cannot be read; the connection's compression state is lost with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a zlib stream, or one that another dictionary made.
    #[error("header block is not SPDY-compressed")]
    Compression,
    /// More than the limit after inflating.
    #[error("header block is larger than {0} bytes")]
    TooLarge(usize),
    /// Lengths that the block does not hold.
    #[error("header block is truncated")]
    Truncated,
    /// Not UTF-8.
    #[error("header is not text")]
    NotText,
}

/// Compresses the header blocks of one direction, in the order they are sent.
pub struct HeaderCompressor(Compress);

impl Default for HeaderCompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderCompressor {
    /// The state at the start of a connection.
    pub fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY).expect("a fresh zlib stream takes a dictionary");
        Self(zlib)
    }

    /// Compresses one block, ending on a byte boundary.
    pub fn compress(&mut self, headers: &Headers) -> Bytes {
        let plain = headers.encode();
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let used = (self.0.total_in() - start) as usize;
            // The only failure is misuse of the stream, which `Sync` on an unfinished one is not.
            let _ = self.0.compress_vec(&plain[used..], &mut out, FlushCompress::Sync);
            let all_in = (self.0.total_in() - start) as usize == plain.len();
            if all_in && out.len() < out.capacity() {
                return out.into();
            }
            out.reserve(256);
        }
    }
}

/// Inflates the header blocks of one direction, in the order they arrive.
pub struct HeaderDecompressor {
    zlib: Decompress,
    limit: usize,
}

impl HeaderDecompressor {
    /// The state at the start of a connection; no block may inflate to more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { zlib: Decompress::new(true), limit }
    }

    /// Inflates and reads one block.
    pub fn decompress(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let mut out = Vec::with_capacity((block.len() * 4).clamp(256, self.limit + 1));
        let start = self.zlib.total_in();
        loop {
            let used = (self.zlib.total_in() - start) as usize;
            let before = (used, out.len());
            let status = match self.zlib.decompress_vec(&block[used..], &mut out, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Compression)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Compression),
            };
            if out.len() > self.limit {
                return Err(HeaderError::TooLarge(self.limit));
            }
            let used = (self.zlib.total_in() - start) as usize;
            if used == block.len() && out.len() < out.capacity() {
                return Headers::decode(out.into());
            }
            if status == Status::StreamEnd || (before == (used, out.len()) && out.len() < out.capacity()) {
                return Err(HeaderError::Compression);
            }
            if out.len() == out.capacity() {
                out.reserve(out.len().min(self.limit + 1 - out.len()).max(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 16 * 1024;

    #[test]
    fn blocks_share_one_stream_of_compression() {
        let (mut compress, mut inflate) = (HeaderCompressor::new(), HeaderDecompressor::new(LIMIT));
        let headers = Headers::new([("streamType", "stdout"), ("port", "8080"), ("requestID", "0")]);
        let first = compress.compress(&headers);
        let second = compress.compress(&headers);
        assert!(second.len() < first.len(), "the second block refers to the first");
        for block in [first, second] {
            let read = inflate.decompress(&block).expect("a block");
            assert_eq!(read, headers);
            assert_eq!(read.get("StreamType"), Some("stdout"));
        }
    }

    #[test]
    fn starts_with_the_dictionary_every_implementation_has() {
        let block = HeaderCompressor::new().compress(&Headers::default());
        // zlib header with FDICT, then the dictionary's Adler-32 as the specification prints it.
        assert_eq!(block[1] & 0x20, 0x20);
        assert_eq!(&block[2..6], &[0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn a_small_block_cannot_inflate_past_the_limit() {
        let huge = Headers::new([("a", "x".repeat(LIMIT * 4))]);
        let block = HeaderCompressor::new().compress(&huge);
        assert!(block.len() < 1024);
        assert_eq!(HeaderDecompressor::new(LIMIT).decompress(&block), Err(HeaderError::TooLarge(LIMIT)));
    }

    #[test]
    fn a_count_larger_than_the_block_is_refused() {
        assert_eq!(Headers::decode(Bytes::from_static(&[0xff; 12])), Err(HeaderError::Truncated));
    }

    proptest! {
        #[test]
        fn random_blocks_never_panic(blocks: Vec<Vec<u8>>) {
            let mut inflate = HeaderDecompressor::new(LIMIT);
            for block in blocks {
                if inflate.decompress(&block).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn damaged_blocks_never_panic(at in 0usize..64, value: u8, text in "[a-z]{0,200}") {
            let mut block = HeaderCompressor::new().compress(&Headers::new([("streamtype", text)])).to_vec();
            let at = at % block.len();
            block[at] = value;
            let _ = HeaderDecompressor::new(LIMIT).decompress(&block);
        }

        #[test]
        fn headers_survive_the_wire(pairs in proptest::collection::vec(("[a-z]{1,12}", ".{0,80}"), 0..12)) {
            let headers = Headers::new(pairs);
            let block = HeaderCompressor::new().compress(&headers);
            prop_assert_eq!(HeaderDecompressor::new(64 * 1024).decompress(&block), Ok(headers));
        }
    }
}
