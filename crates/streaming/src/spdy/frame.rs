//! SPDY/3.1 frames as bytes: pure parsing and encoding, header blocks left compressed.

use bytes::{BufMut, Bytes, BytesMut};

/// The version in every control frame (SPDY/3.1 keeps 3).
const VERSION: u16 = 3;
/// A bit that stream identifiers must not have.
const ID_MASK: u32 = 0x7fff_ffff;
/// The largest payload a frame's 24-bit length can say.
pub const MAX_PAYLOAD: usize = (1 << 24) - 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// Why a stream was reset.
pub mod reset {
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A frame named a stream that is not open.
    pub const INVALID_STREAM: u32 = 2;
    /// The stream was not taken; nothing of it was processed.
    pub const REFUSED_STREAM: u32 = 3;
    /// The creator no longer needs the stream.
    pub const CANCEL: u32 = 5;
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `len` bytes of stream data follow.
    Data {
        /// The stream.
        id: u32,
        /// Nothing more follows on this stream from the sender.
        fin: bool,
        /// Payload length.
        len: usize,
    },
    /// `len` bytes of a control frame follow.
    Control {
        /// Frame type.
        kind: u16,
        /// Frame flags.
        flags: u8,
        /// Payload length.
        len: usize,
    },
}

/// A control frame; header blocks are still compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        id: u32,
        /// The opener sends nothing on it.
        fin: bool,
        /// The other side may send nothing on it.
        unidirectional: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// The accepting side sends nothing on it.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Ends a stream at once, both ways.
    RstStream {
        /// The stream.
        id: u32,
        /// One of [`reset`].
        status: u32,
    },
    /// Settings; nothing here depends on them.
    Settings,
    /// To be echoed, if the other side started it.
    Ping {
        /// Odd if the client started it.
        id: u32,
    },
    /// No further streams are accepted.
    GoAway {
        /// The last stream that was processed.
        last: u32,
        /// 0 is a normal end.
        status: u32,
    },
    /// More headers for a stream.
    Headers {
        /// The stream.
        id: u32,
        /// Nothing more follows.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Flow control credit, which Kubernetes' implementations neither give nor need.
    WindowUpdate {
        /// The stream, or 0 for the connection.
        id: u32,
        /// Additional bytes.
        delta: u32,
    },
    /// A type this version does not have; to be skipped.
    Unknown {
        /// Frame type.
        kind: u16,
    },
}

/// Why bytes are not a SPDY frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not version 3.
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    /// Payload too short or too long for its type.
    #[error("malformed SPDY control frame of type {0}")]
    Malformed(u16),
    /// Stream 0 was named where a stream is needed.
    #[error("SPDY stream id zero is disallowed")]
    ZeroStream,
    /// Larger than the limit.
    #[error("SPDY control frame of {0} bytes is too large")]
    TooLarge(usize),
}

/// Reads a frame's first eight bytes.
pub fn parse_head(bytes: [u8; 8]) -> Result<Head, FrameError> {
    let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let flags = bytes[4];
    let len = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
    if word & !ID_MASK == 0 {
        if word == 0 {
            return Err(FrameError::ZeroStream);
        }
        return Ok(Head::Data { id: word, fin: flags & FLAG_FIN != 0, len });
    }
    let version = ((word >> 16) & 0x7fff) as u16;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    Ok(Head::Control { kind: word as u16, flags, len })
}

/// Reads a control frame's payload.
pub fn parse_control(kind: u16, flags: u8, payload: Bytes) -> Result<Control, FrameError> {
    let word = |at: usize| -> Result<u32, FrameError> {
        let bytes = payload.get(at..at + 4).ok_or(FrameError::Malformed(kind))?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let stream = || -> Result<u32, FrameError> {
        match word(0)? & ID_MASK {
            0 => Err(FrameError::ZeroStream),
            id => Ok(id),
        }
    };
    let exactly = |len: usize| if payload.len() == len { Ok(()) } else { Err(FrameError::Malformed(kind)) };
    let rest = |at: usize| {
        if payload.len() >= at { Ok(payload.slice(at..)) } else { Err(FrameError::Malformed(kind)) }
    };
    let fin = flags & FLAG_FIN != 0;
    Ok(match kind {
        SYN_STREAM => {
            // Associated stream, priority and slot are of no use here.
            let block = rest(10)?;
            Control::SynStream { id: stream()?, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0, block }
        }
        SYN_REPLY => Control::SynReply { id: stream()?, fin, block: rest(4)? },
        HEADERS => Control::Headers { id: stream()?, fin, block: rest(4)? },
        RST_STREAM => {
            exactly(8)?;
            Control::RstStream { id: stream()?, status: word(4)? }
        }
        SETTINGS => Control::Settings,
        PING => {
            exactly(4)?;
            Control::Ping { id: word(0)? }
        }
        GOAWAY => {
            exactly(8)?;
            Control::GoAway { last: word(0)? & ID_MASK, status: word(4)? }
        }
        WINDOW_UPDATE => {
            exactly(8)?;
            Control::WindowUpdate { id: word(0)? & ID_MASK, delta: word(4)? & ID_MASK }
        }
        kind => Control::Unknown { kind },
    })
}

/// Appends a control frame.
pub fn encode_control(frame: &Control, out: &mut BytesMut) {
    let head = |out: &mut BytesMut, kind: u16, flags: u8, len: usize| {
        debug_assert!(len <= MAX_PAYLOAD);
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32((u32::from(flags) << 24) | len as u32);
    };
    let fin_flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
    match frame {
        Control::SynStream { id, fin, unidirectional, block } => {
            let flags = fin_flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
            head(out, SYN_STREAM, flags, 10 + block.len());
            out.put_u32(*id);
            out.put_u32(0);
            out.put_u16(0);
            out.put_slice(block);
        }
        Control::SynReply { id, fin, block } | Control::Headers { id, fin, block } => {
            let kind = if matches!(frame, Control::SynReply { .. }) { SYN_REPLY } else { HEADERS };
            head(out, kind, fin_flag(*fin), 4 + block.len());
            out.put_u32(*id);
            out.put_slice(block);
        }
        Control::RstStream { id, status } => {
            head(out, RST_STREAM, 0, 8);
            out.put_u32(*id);
            out.put_u32(*status);
        }
        Control::Settings => {
            head(out, SETTINGS, 0, 4);
            out.put_u32(0);
        }
        Control::Ping { id } => {
            head(out, PING, 0, 4);
            out.put_u32(*id);
        }
        Control::GoAway { last, status } => {
            head(out, GOAWAY, 0, 8);
            out.put_u32(*last);
            out.put_u32(*status);
        }
        Control::WindowUpdate { id, delta } => {
            head(out, WINDOW_UPDATE, 0, 8);
            out.put_u32(*id);
            out.put_u32(*delta);
        }
        Control::Unknown { kind } => head(out, *kind, 0, 0),
    }
}

/// Appends a data frame.
pub fn encode_data(id: u32, fin: bool, data: &[u8], out: &mut BytesMut) {
    debug_assert!(data.len() <= MAX_PAYLOAD);
    out.put_u32(id & ID_MASK);
    out.put_u32((u32::from(fin) << 24) | data.len() as u32);
    out.put_slice(data);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(mut bytes: Bytes) -> Control {
        let head = bytes.split_to(8);
        match parse_head(head.as_ref().try_into().expect("eight bytes")).expect("a head") {
            Head::Control { kind, flags, len } => {
                assert_eq!(len, bytes.len());
                parse_control(kind, flags, bytes).expect("a control frame")
            }
            head => panic!("not control: {head:?}"),
        }
    }

    #[test]
    fn golden_frames() {
        let check = |frame: Control, expect: &[u8]| {
            let mut out = BytesMut::new();
            encode_control(&frame, &mut out);
            assert_eq!(&out[..], expect, "{frame:?}");
            assert_eq!(decode(out.freeze()), frame);
        };
        check(Control::Ping { id: 1 }, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        check(Control::GoAway { last: 5, status: 0 }, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0]);
        check(Control::RstStream { id: 3, status: 5 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]);
        check(
            Control::SynStream { id: 7, fin: true, unidirectional: false, block: Bytes::from_static(b"ab") },
            &[0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, b'a', b'b'],
        );
        check(
            Control::SynReply { id: 7, fin: false, block: Bytes::from_static(b"z") },
            &[0x80, 3, 0, 2, 0, 0, 0, 5, 0, 0, 0, 7, b'z'],
        );
        let mut data = BytesMut::new();
        encode_data(9, true, b"hi", &mut data);
        assert_eq!(&data[..], &[0, 0, 0, 9, 1, 0, 0, 2, b'h', b'i']);
    }

    #[test]
    fn refuses_what_is_not_spdy_3() {
        assert_eq!(parse_head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version(2)));
        assert_eq!(parse_head([0; 8]), Err(FrameError::ZeroStream));
        assert_eq!(
            parse_control(SYN_STREAM, 0, Bytes::from_static(&[0; 9])),
            Err(FrameError::Malformed(SYN_STREAM))
        );
        assert_eq!(parse_control(SYN_REPLY, 0, Bytes::from_static(&[0; 4])), Err(FrameError::ZeroStream));
        assert_eq!(parse_control(PING, 0, Bytes::from_static(&[0; 5])), Err(FrameError::Malformed(PING)));
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(kind in 0u16..12, flags: u8, payload: Vec<u8>) {
            let _ = parse_control(kind, flags, payload.into());
        }

        #[test]
        fn what_is_encoded_is_read_back(id in 1u32..=ID_MASK, fin: bool, unidirectional: bool, block: Vec<u8>) {
            let frame = Control::SynStream { id, fin, unidirectional, block: block.into() };
            let mut out = BytesMut::new();
            encode_control(&frame, &mut out);
            prop_assert_eq!(decode(out.freeze()), frame);
        }
    }
}
