//! Ports as requests write them.

/// Why a port cannot be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPort {
    #[error("query parameter \"port\" is required")]
    Missing,
    #[error("query parameter \"port\" cannot be empty")]
    Empty,
    #[error("unable to parse {0:?} as a port")]
    NotANumber(String),
    #[error("port {0:?} must be > 0")]
    Zero(String),
    #[error("at most {0} ports can be forwarded over one connection")]
    TooMany(usize),
}

/// Ports of one WebSocket: two channels each, numbered in one byte, 255 reserved.
const MAX_PORTS: usize = 127;

/// A port's number.
pub(crate) fn parse_port(text: &str) -> Result<u16, InvalidPort> {
    match text.parse::<u16>() {
        Ok(0) => Err(InvalidPort::Zero(text.into())),
        Ok(port) => Ok(port),
        Err(_) => Err(InvalidPort::NotANumber(text.into())),
    }
}

/// The ports of a WebSocket request: every `port` parameter, each a list with commas.
pub(crate) fn forwarded_ports(query: &str) -> Result<Vec<u16>, InvalidPort> {
    let mut ports = Vec::new();
    for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "port") {
        if value.is_empty() {
            return Err(InvalidPort::Empty);
        }
        for part in value.split(',') {
            ports.push(parse_port(part)?);
        }
    }
    match ports.len() {
        0 => Err(InvalidPort::Missing),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(InvalidPort::TooMany(MAX_PORTS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_and_repeated_parameters() {
        assert_eq!(forwarded_ports("port=80,443&port=8080&x=1"), Ok(vec![80, 443, 8080]));
        assert_eq!(forwarded_ports("x=1"), Err(InvalidPort::Missing));
        assert_eq!(forwarded_ports("port="), Err(InvalidPort::Empty));
        assert_eq!(forwarded_ports("port=0"), Err(InvalidPort::Zero("0".into())));
        assert_eq!(forwarded_ports("port=65536"), Err(InvalidPort::NotANumber("65536".into())));
        let many = vec!["1"; 128].join(",");
        assert_eq!(forwarded_ports(&format!("port={many}")), Err(InvalidPort::TooMany(127)));
    }
}
