//! The kernel's memory of flows: read it, and forget flows that lead nowhere any more.

use std::{io, net::Ipv4Addr, time::Duration};

use crate::tool;

/// One UDP flow over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who sent the first packet.
    pub source: Ipv4Addr,
    /// From which port.
    pub source_port: u16,
    /// Where it was sent to, before anything rewrote it.
    pub destination: Ipv4Addr,
    /// To which port.
    pub destination_port: u16,
    /// Who answers.
    pub answered_by: Ipv4Addr,
    /// From which port the answers come.
    pub answered_from: u16,
}

/// Why flows could not be read or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `conntrack` on this host.
    #[error("conntrack was not found in PATH nor in /usr/sbin (Debian's package conntrack has it)")]
    Missing,
    /// It could not be run, or did not end.
    #[error("cannot run conntrack")]
    Run(#[source] io::Error),
    /// It does not do what it was asked.
    #[error("conntrack refused: {0}")]
    Refused(String),
}

const LIMIT: Duration = Duration::from_secs(30);

/// All UDP flows over IPv4 in the network namespace of the calling thread.
pub async fn udp_flows() -> Result<Vec<Flow>, Error> {
    let text = run(&["-L", "-f", "ipv4", "-p", "udp"]).await?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Forgets one UDP flow; the next packet of it is looked at anew. `false` if it was gone already.
pub async fn forget(flow: &Flow) -> Result<bool, Error> {
    let (source, destination) = (flow.source.to_string(), flow.destination.to_string());
    let (from, to) = (flow.source_port.to_string(), flow.destination_port.to_string());
    let args = [
        "-D",
        "-f",
        "ipv4",
        "-p",
        "udp",
        "--orig-src",
        &source,
        "--orig-dst",
        &destination,
        "--orig-port-src",
        &from,
        "--orig-port-dst",
        &to,
    ];
    match run(&args).await {
        Ok(_) => Ok(true),
        // Its way to say that nothing matched.
        Err(Error::Refused(message)) if message.contains("0 flow entries") => Ok(false),
        Err(error) => Err(error),
    }
}

async fn run(args: &[&str]) -> Result<String, Error> {
    let output = tool::run("conntrack", args, "", LIMIT).await.map_err(|error| match error {
        tool::Error::Missing => Error::Missing,
        tool::Error::Run(error) => Error::Run(error),
        tool::Error::Timeout(_) | tool::Error::TooLong(_) => Error::Refused(error.to_string()),
    })?;
    if output.success {
        Ok(String::from_utf8_lossy(&output.out).into_owned())
    } else {
        Err(Error::Refused(output.err.lines().collect::<Vec<_>>().join("; ")))
    }
}

/// Reads a line like
/// `udp 17 29 src=10.0.0.1 dst=10.96.0.10 sport=5 dport=53 [UNREPLIED] src=10.244.0.3 dst=10.0.0.1 sport=53 dport=5 ...`.
fn parse(line: &str) -> Option<Flow> {
    let mut words = line.split_whitespace();
    if words.next()? != "udp" {
        return None;
    }
    let mut sides: [[Option<&str>; 4]; 2] = Default::default();
    for word in words {
        let Some((key, value)) = word.split_once('=') else { continue };
        let Some(at) = ["src", "dst", "sport", "dport"].iter().position(|k| *k == key) else { continue };
        if let Some(side) = sides.iter_mut().find(|s| s[at].is_none()) {
            side[at] = Some(value);
        }
    }
    let [[src, dst, sport, dport], [reply_src, _, reply_sport, _]] = sides;
    Some(Flow {
        source: src?.parse().ok()?,
        source_port: sport?.parse().ok()?,
        destination: dst?.parse().ok()?,
        destination_port: dport?.parse().ok()?,
        answered_by: reply_src?.parse().ok()?,
        answered_from: reply_sport?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_conntrack_lists() {
        let flow = Flow {
            source: [10, 0, 0, 1].into(),
            source_port: 40_000,
            destination: [10, 96, 0, 10].into(),
            destination_port: 53,
            answered_by: [10, 244, 0, 3].into(),
            answered_from: 5353,
        };
        let ends = "src=10.244.0.3 dst=10.0.0.1 sport=5353 dport=40000 mark=0 use=1";
        let line =
            format!("udp      17 29 src=10.0.0.1 dst=10.96.0.10 sport=40000 dport=53 [UNREPLIED] {ends}");
        assert_eq!(parse(&line), Some(flow));
        let counted = format!(
            "udp 17 29 src=10.0.0.1 dst=10.96.0.10 sport=40000 dport=53 packets=1 bytes=60 {ends} [ASSURED]"
        );
        assert_eq!(parse(&counted), Some(flow));
        for rubbish in ["", "udp", "tcp 6 src=1.1.1.1", "udp 17 src=x dst=y sport=1 dport=2"] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
