//! Large answers, compressed for those who ask. Upstream: apiserver/pkg/endpoints/handlers/responsewriters, 1.36.
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;

use crate::body::{Body, BoxError};

/// Answers below this size are not worth it.
pub const THRESHOLD: u64 = 128 * 1024;
/// Bytes that are compressed before other tasks get their turn.
const PIECE: usize = 64 * 1024;

/// The size of a body that is made while it is sent, as an extension of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

/// Whether the client takes gzip.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.split(';').next().is_some_and(|v| v.trim() == "gzip"))
}

/// Compresses a large answer.
pub fn compress(mut response: Response<Body>) -> Response<Body> {
    let size = match response.body().size_hint().exact() {
        Some(exact) => exact,
        None => response.extensions().get::<Size>().map_or(0, |s| s.0),
    };
    if size < THRESHOLD || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| {
        // The fastest level, as upstream: a client waits for it.
        let encoder = GzEncoder::new(Vec::with_capacity(PIECE / 2), Compression::new(1));
        Gzip { body, pending: Bytes::new(), encoder: Some(encoder) }.boxed_unsync()
    })
}

struct Gzip {
    body: Body,
    /// What came and is not yet compressed.
    pending: Bytes,
    /// `None`: the end was sent.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            if this.pending.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                    Some(Ok(frame)) => this.pending = frame.into_data().unwrap_or_default(),
                    Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                    None => {
                        let end = this.encoder.take().map(GzEncoder::finish).transpose()?.unwrap_or_default();
                        return Poll::Ready(Some(Ok(Frame::data(end.into()))));
                    }
                }
            }
            let piece = this.pending.split_to(this.pending.len().min(PIECE));
            encoder.write_all(&piece)?;
            if encoder.get_ref().len() >= PIECE / 4 {
                let out = std::mem::replace(encoder.get_mut(), Vec::with_capacity(PIECE / 2));
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::body::full;

    #[test]
    fn only_who_asks_gets_it() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, value.parse().expect("a header"));
            is_accepted(&headers)
        };
        assert!(check("gzip") && check("deflate, gzip;q=1.0") && check("br,gzip"));
        assert!(!check("identity") && !check("x-gzip") && !check(""));
    }

    #[tokio::test]
    async fn large_answers_read_back() {
        let text: Vec<u8> = (0..400_000_u32).map(|i| (i * 31 % 251) as u8).collect();
        let response = compress(Response::new(full(text.clone())));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let packed = response.into_body().collect().await.expect("a body").to_bytes();
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut out).expect("gzip");
        assert!(out == text && packed.len() < text.len() / 2);
    }

    #[tokio::test]
    async fn small_answers_stay_as_they_are() {
        let response = compress(Response::new(full(vec![0; THRESHOLD as usize - 1])));
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
    }
}
