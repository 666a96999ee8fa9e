//! A watch over a WebSocket: each event is a message, text for JSON. Upstream: apiserver/pkg/endpoints/handlers/watch.go,
//! `HandleWS`, 1.36.
use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use machinery::StatusResult;

use crate::body::{Body, BoxError};
use crate::metrics::Running;
use crate::negotiate::Media;
use crate::watch::Stream;

/// Agrees to the upgrade and sends the events.
pub fn serve(request: &mut Request<Body>, mut stream: Stream, media: Media) -> StatusResult<Response<Body>> {
    let into_body = |response: Response<streaming::Body>| {
        response.map(|body| body.map_err(BoxError::from).boxed_unsync())
    };
    let accepted = match streaming::accept::messages(request, &streaming::Limits::default()) {
        Ok(accepted) => accepted,
        Err(refusal) => return Ok(into_body(refusal)),
    };
    let running: Option<Running> = stream.running();
    let session = accepted.session;
    tokio::spawn(async move {
        let _running = running;
        let Ok(mut socket) = session.await else { return };
        loop {
            let piece = tokio::select! {
                () = socket.gone() => return,
                piece = stream.next() => piece,
            };
            let Some(piece) = piece else { break };
            for message in messages(piece, media) {
                if socket.send(message, media == Media::Json).await.is_err() {
                    return;
                }
            }
        }
        socket.close().await;
    });
    Ok(into_body(accepted.response))
}

/// The events of a frame.
fn messages(mut piece: Bytes, media: Media) -> Vec<Bytes> {
    let mut all = Vec::new();
    while !piece.is_empty() {
        if media == Media::Protobuf {
            // Without the length, which a message of its own does not need.
            if piece.len() < 4 {
                break;
            }
            let length = (piece.get_u32() as usize).min(piece.len());
            all.push(piece.split_to(length));
        } else {
            let end = piece.iter().position(|b| *b == b'\n').map_or(piece.len(), |at| at + 1);
            all.push(piece.split_to(end));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_a_message() {
        let json = messages(Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n"), Media::Json);
        assert_eq!(json, ["{\"a\":1}\n", "{\"b\":2}\n"]);
        let protobuf = messages(Bytes::from_static(b"\0\0\0\x02ab\0\0\0\x01c"), Media::Protobuf);
        assert_eq!(protobuf, ["ab", "c"]);
        assert_eq!(messages(Bytes::from_static(b"\0\0\0\x09a"), Media::Protobuf), ["a"]);
        assert!(messages(Bytes::new(), Media::Json).is_empty());
    }
}
