//! Channel messages as bytes: the channel's number, then data, raw or base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// How a subprotocol writes channel messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Binary messages: a byte, then raw data.
    Binary,
    /// Text messages: a digit, then base64.
    Base64,
}

impl Codec {
    /// A channel's data as a message.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(data.len() * 4 / 3 + 5);
                text.push(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// The channel and data of a received message; none if it carries neither.
    pub fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let channel = *bytes.first()?;
        let data = bytes.slice(1..);
        match self {
            Self::Binary => Some((channel, data)),
            Self::Base64 => Some((channel.wrapping_sub(b'0'), STANDARD.decode(&data).ok()?.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_messages() {
        assert_eq!(Codec::Binary.encode(1, b"hi"), Message::Binary(Bytes::from_static(&[1, b'h', b'i'])));
        assert_eq!(Codec::Base64.encode(1, b"\n"), Message::text("1Cg=="));
        assert_eq!(
            Codec::Base64.decode(Message::text("0Zm9vCgo=")),
            Some((0, Bytes::from_static(b"foo\n\n")))
        );
        assert_eq!(Codec::Binary.decode(Message::Binary(Bytes::new())), None);
        assert_eq!(Codec::Base64.decode(Message::text("0*")), None);
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(channel in 0u8..10, data: Vec<u8>) {
            for codec in [Codec::Binary, Codec::Base64] {
                let read = codec.decode(codec.encode(channel, &data));
                prop_assert_eq!(read, Some((channel, Bytes::from(data.clone()))));
            }
        }

        #[test]
        fn random_messages_never_panic(data: Vec<u8>, text: String) {
            for codec in [Codec::Binary, Codec::Base64] {
                let _ = codec.decode(Message::Binary(data.clone().into()));
                let _ = codec.decode(Message::text(text.clone()));
            }
        }
    }
}
