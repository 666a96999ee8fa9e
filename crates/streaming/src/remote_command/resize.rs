//! Terminal sizes: JSON objects one after the other on a byte stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one size message; a real one has about thirty.
const MAX_MESSAGE: usize = 1024;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The sizes a client sends, until it sends nonsense or ends.
pub struct ResizeStream(Pin<Box<dyn Stream<Item = TerminalSize> + Send>>);

impl ResizeStream {
    pub(crate) fn new(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let start = (reader, Vec::new());
        let sizes = stream::unfold(start, |(mut reader, mut buffer)| async move {
            loop {
                match take_size(&mut buffer) {
                    Taken::Size(size) => return Some((size, (reader, buffer))),
                    Taken::Invalid => return None,
                    Taken::Incomplete if buffer.len() > MAX_MESSAGE => return None,
                    Taken::Incomplete => {}
                }
                if !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
                    return None;
                }
            }
        });
        Self(sizes.boxed())
    }
}

impl Stream for ResizeStream {
    type Item = TerminalSize;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TerminalSize>> {
        self.0.as_mut().poll_next(cx)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Size(TerminalSize),
    Incomplete,
    Invalid,
}

/// Takes the first size out of what was received so far.
fn take_size(buffer: &mut Vec<u8>) -> Taken {
    let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<TerminalSize>();
    match values.next() {
        Some(Ok(size)) => {
            let used = values.byte_offset();
            buffer.drain(..used);
            Taken::Size(size)
        }
        Some(Err(error)) if error.is_eof() => Taken::Incomplete,
        Some(Err(_)) => Taken::Invalid,
        None => Taken::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut buffer = b"{\"Width\":80,\"Height\":24}\n{\"Width\":10".to_vec();
        assert_eq!(take_size(&mut buffer), Taken::Size(TerminalSize { width: 80, height: 24 }));
        assert_eq!(take_size(&mut buffer), Taken::Incomplete);
        buffer.extend_from_slice(b"0,\"Height\":50}");
        assert_eq!(take_size(&mut buffer), Taken::Size(TerminalSize { width: 100, height: 50 }));
        assert_eq!(take_size(&mut b"{]".to_vec()), Taken::Invalid);
        assert_eq!(take_size(&mut b"{\"Width\":70000,\"Height\":1}".to_vec()), Taken::Invalid);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = take_size(&mut bytes);
        }
    }
}
