//! A stand-in for a container runtime: exec runs a process of this machine, port-forward dials loopback.

use std::process::Stdio;

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use streaming::{Body, ExecStatus, Limits, Session, Streams, accept, body};
use tokio::{
    io::{AsyncWriteExt, copy},
    net::TcpStream,
    process::Command,
};

/// Serves `/exec`, `/attach` and `/portForward` with the kubelet's query parameters.
pub async fn runtime(mut request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    if path.starts_with("/portForward") {
        return match accept::port_forward(&mut request, &Limits::default()) {
            Err(refusal) => refusal,
            Ok(accepted) => {
                tokio::spawn(async move {
                    let mut session = accepted.session.await.expect("a session");
                    while let Some(forward) = session.next().await {
                        tokio::spawn(dial(forward));
                    }
                });
                accepted.response
            }
        };
    }
    let streams = match Streams::from_kubelet_query(&query) {
        Ok(streams) => streams,
        Err(error) => return body::text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let mut command: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "command")
        .map(|(_, value)| value.into_owned())
        .collect();
    if command.is_empty() {
        // What one attaches to.
        command = vec!["cat".to_owned()];
    }
    match accept::remote_command(&mut request, streams, &Limits::default()) {
        Err(refusal) => refusal,
        Ok(accepted) => {
            tokio::spawn(async move {
                let session = accepted.session.await.expect("a session");
                if streams.tty { tell_size(session).await } else { run(session, command).await }
            });
            accepted.response
        }
    }
}

async fn run(session: Session, command: Vec<String>) {
    let Session { stdin, stdout, stderr, resize: _, end } = session;
    let (program, arguments) = command.split_first().expect("a command");
    let mut child = match Command::new(program)
        .args(arguments)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
    {
        Ok(child) => child,
        Err(error) => return end.finish(&ExecStatus::internal_error(error.to_string())).await,
    };
    let to_stdin = child.stdin.take();
    let input = async {
        if let (Some(mut from), Some(mut to)) = (stdin, to_stdin) {
            let _ = copy(&mut from, &mut to).await;
        }
    };
    let mut from_stdout = child.stdout.take().expect("piped");
    let mut from_stderr = child.stderr.take().expect("piped");
    let output = async {
        let out = async {
            if let Some(mut sink) = stdout {
                let _ = copy(&mut from_stdout, &mut sink).await;
            }
        };
        let err = async {
            if let Some(mut sink) = stderr {
                let _ = copy(&mut from_stderr, &mut sink).await;
            }
        };
        tokio::join!(out, err);
    };
    let done = async {
        output.await;
        child.wait().await.expect("a status")
    };
    tokio::pin!(input);
    tokio::pin!(done);
    let exit = tokio::select! {
        exit = &mut done => exit,
        () = &mut input => done.await,
    };
    end.finish(&ExecStatus::exited(exit.code().unwrap_or(137))).await;
}

/// A terminal program that prints its size when it changes, and ends at "q".
async fn tell_size(session: Session) {
    let Session { stdin, stdout, resize, end, .. } = session;
    let mut stdout = stdout.expect("an output");
    let mut sizes = resize.expect("sizes");
    let size = sizes.next().await.expect("a first size");
    stdout.write_all(format!("{}x{}\r\n", size.width, size.height).as_bytes()).await.expect("output");
    drop((stdin, stdout));
    end.finish(&ExecStatus::success()).await;
}

async fn dial(forward: streaming::Forward) {
    let streaming::Forward { port, mut data, error } = forward;
    match TcpStream::connect(("127.0.0.1", port)).await {
        Err(reason) => error.fail(&format!("dial {port}: {reason}")).await,
        Ok(mut socket) => {
            let _ = tokio::io::copy_bidirectional(&mut data, &mut socket).await;
            error.close().await;
        }
    }
}
