//! `cox reach`: asks names and servers from where it runs, and tells what answered. [`super::verify`] runs it in pods.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::output::{self, Failure};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Names, and the address that each shall have.
    pub names: BTreeMap<String, IpAddr>,
    /// Web servers, by what they are called here.
    pub servers: BTreeMap<String, SocketAddr>,
    /// For how long what does not answer is asked again.
    pub patience_ms: u64,
}

/// What did not answer, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// Names.
    pub names: BTreeMap<String, String>,
    /// Servers, by what they are called.
    pub servers: BTreeMap<String, String>,
}

/// Asks everything at the same time.
async fn ask(question: &Question) -> Unanswered {
    let deadline = Instant::now() + Duration::from_millis(question.patience_ms);
    let names = question.names.iter().map(|(name, want)| async move {
        (name.clone(), until(deadline, async || resolve(name, *want).await).await)
    });
    let servers = question
        .servers
        .iter()
        .map(|(name, at)| async move { (name.clone(), until(deadline, async || get(*at).await).await) });
    let (names, servers) = tokio::join!(futures::future::join_all(names), futures::future::join_all(servers));
    let failed = |all: Vec<(String, Result<(), String>)>| {
        all.into_iter().filter_map(|(name, result)| Some((name, result.err()?))).collect()
    };
    Unanswered { names: failed(names), servers: failed(servers) }
}

async fn until(deadline: Instant, once: impl AsyncFn() -> Result<(), String>) -> Result<(), String> {
    loop {
        match timeout(ANSWER, once())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
        {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
    }
}

async fn resolve(name: &str, want: IpAddr) -> Result<(), String> {
    let found: BTreeSet<IpAddr> =
        tokio::net::lookup_host((name, 0)).await.map_err(|e| e.to_string())?.map(|a| a.ip()).collect();
    if found.contains(&want) { Ok(()) } else { Err(format!("it is {found:?} rather than {want}")) }
}

async fn get(at: SocketAddr) -> Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(at).await.map_err(failed)?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await.map_err(failed)?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if first.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("it answers {first:?}")) }
}

/// Asks, and prints what did not answer as JSON.
pub async fn reach(question: &str) -> Result<ExitCode, Failure> {
    let question: Question = serde_json::from_str(question).map_err(|e| Failure::of(&e))?;
    let unanswered = ask(&question).await;
    output::print_json(&serde_json::to_value(&unanswered).map_err(|e| Failure::of(&e))?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            // The first one is answered wrongly: it is asked again.
            let mut codes = ["503 Wait"].into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let code = codes.next().unwrap_or("200 OK");
                let _ = stream.write_all(format!("HTTP/1.1 {code}\r\n\r\n").as_bytes()).await;
            }
        });
        let nobody = base::ports::free_port().unwrap();
        let question = Question {
            names: [
                ("localhost".to_owned(), [127, 0, 0, 1].into()),
                ("127.0.0.2".into(), [192, 0, 2, 1].into()),
            ]
            .into(),
            servers: [("good".to_owned(), at), ("none".into(), SocketAddr::from(([127, 0, 0, 1], nobody)))]
                .into(),
            patience_ms: 500,
        };
        let found = ask(&question).await;
        assert_eq!(found.names.keys().collect::<Vec<_>>(), ["127.0.0.2"], "{found:?}");
        assert_eq!(found.servers.keys().collect::<Vec<_>>(), ["none"], "{found:?}");
        assert!(found.servers["none"].contains("refused"), "{found:?}");
    }
}
