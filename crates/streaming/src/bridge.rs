//! Joins a client's session to a runtime's: one protocol ends here and another starts.

use std::sync::Arc;

use futures::{StreamExt, future::pending};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    ExecStatus, Forward, PortForwardSession, Session,
    client::{ClientSession, PortForwardClient},
};

/// Bytes of a message about a failed connection.
const MAX_MESSAGE: u64 = 16 * 1024;

/// Runs an exec or attach until the command has ended or the client is gone.
pub async fn remote_command(session: Session, runtime: ClientSession) {
    let Session { stdin, stdout, stderr, resize, end } = session;
    let ClientSession {
        stdin: to_stdin,
        stdout: from_stdout,
        stderr: from_stderr,
        resize: to_resize,
        status,
    } = runtime;
    let input = async {
        let typed = copy_to_end(stdin, to_stdin);
        let resized = async {
            if let (Some(mut sizes), Some(mut sink)) = (resize, to_resize) {
                while let Some(size) = sizes.next().await {
                    if sink.send(size).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::join!(typed, resized);
        // The end of input is not the end of the session.
        pending::<()>().await
    };
    let output = async {
        let ((), (), status) =
            tokio::join!(copy_to_end(from_stdout, stdout), copy_to_end(from_stderr, stderr), status);
        status
    };
    let status: Option<ExecStatus> = tokio::select! {
        status = output => Some(status),
        () = input => None,
        () = end.closed() => None,
    };
    match status {
        Some(status) => end.finish(&status).await,
        None => tracing::debug!("client left before its command ended"),
    }
}

/// Copies until the source ends or either side breaks, then ends the sink.
async fn copy_to_end<R, W>(from: Option<R>, to: Option<W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let (Some(mut from), Some(mut to)) = (from, to) {
        // A broken side shows in the session's end, with a reason.
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    }
}

/// Carries connections to a pod's ports until the client or the runtime closes.
///
/// `failure` turns a port and the reason into the message for the client.
pub async fn port_forward(
    mut session: PortForwardSession,
    runtime: PortForwardClient,
    failure: impl Fn(u16, &str) -> String + Send + Sync + 'static,
) {
    let (runtime, failure) = (Arc::new(runtime), Arc::new(failure));
    let closed = runtime.closed();
    let mut connections = JoinSet::new();
    let serve = async {
        while let Some(forward) = session.next().await {
            while connections.try_join_next().is_some() {}
            let (runtime, failure) = (runtime.clone(), failure.clone());
            connections.spawn(async move { carry(forward, &runtime, &*failure).await });
        }
    };
    tokio::select! {
        () = serve => {}
        () = closed.cancelled() => tracing::debug!("runtime ended a port-forward"),
    }
}

/// Carries one connection until the runtime has ended both its data and its error stream.
async fn carry(
    forward: Forward,
    runtime: &PortForwardClient,
    failure: &(impl Fn(u16, &str) -> String + ?Sized),
) {
    let Forward { port, data, error } = forward;
    let (to_pod, mut pod_error) = match runtime.open(port).await {
        Ok(opened) => opened,
        Err(reason) => {
            error.fail(&failure(port, &reason.to_string())).await;
            return;
        }
    };
    let (mut from_pod, to_pod) = to_pod.into_split();
    let (from_client, mut to_client) = tokio::io::split(data);
    let sent = async {
        copy_to_end(Some(from_client), Some(to_pod)).await;
        pending::<()>().await
    };
    let received = async {
        if tokio::io::copy(&mut from_pod, &mut to_client).await.is_err() {
            return Vec::new();
        }
        let mut message = Vec::new();
        let _ = (&mut pod_error).take(MAX_MESSAGE).read_to_end(&mut message).await;
        if message.is_empty() {
            let _ = to_client.shutdown().await;
        }
        message
    };
    let message = tokio::select! {
        message = received => message,
        () = sent => Vec::new(),
    };
    match message.is_empty() {
        true => error.close().await,
        false => error.fail(&String::from_utf8_lossy(&message)).await,
    }
}
