//! How who joins finds out whom to trust: the token's signature says that cluster-info comes from who knows the token,
//! the digest of the authority's key says that it is the one that was meant.
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Client, Config};
use pki::BootstrapToken;

use crate::output::Failure;

/// What everybody may read of a cluster.
const INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// Most bytes of it.
const LIMIT: usize = 1 << 20;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a new token may take until it has signed.
const SIGNING: Duration = Duration::from_secs(5);
/// Certificates count from a while before they were made: clocks further apart than this break them.
const WORST_CLOCK: i64 = 240;
/// Leases live by the clock: what is further apart than this shows.
const BAD_CLOCK: i64 = 5;

/// What cluster-info tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where the API is, as host and port.
    pub endpoint: String,
    /// Who signs the servers' certificates, PEM.
    pub authority_pem: String,
}

/// How the cluster is told from others.
#[derive(Clone, Debug)]
pub struct Known {
    /// The token that it has to know.
    pub token: BootstrapToken,
    /// What its authority's key may be; empty: any.
    pub pins: Vec<String>,
}

/// A cluster that was found, and is the one that was meant.
pub struct Found {
    /// What it tells.
    pub told: Told,
    /// A client that proves itself with the token.
    pub client: Client,
    /// What to say of its clock, if it is not ours.
    pub clock: Option<String>,
}

/// The entry of a token's signature.
pub fn signature_key(token: &BootstrapToken) -> String {
    format!("jws-kubeconfig-{}", token.id())
}

/// Reads the kubeconfig in cluster-info.
pub fn told(kubeconfig: &str) -> Result<Told, Failure> {
    let bad = || {
        Failure::new(
            "the kubeconfig in cluster-info names no server and authority",
            "`cox up` writes it anew",
        )
    };
    let file = Kubeconfig::from_yaml(kubeconfig).map_err(|_| bad())?;
    let cluster = file.clusters.into_iter().find_map(|c| c.cluster).ok_or_else(bad)?;
    use base64::Engine as _;
    let authority = cluster.certificate_authority_data.unwrap_or_default();
    let authority = base64::engine::general_purpose::STANDARD.decode(authority).map_err(|_| bad())?;
    let server = cluster.server.unwrap_or_default();
    let endpoint = server.strip_prefix("https://").ok_or_else(bad)?.trim_end_matches('/').to_owned();
    Ok(Told { endpoint, authority_pem: String::from_utf8(authority).map_err(|_| bad())? })
}

/// Finds the cluster behind an endpoint (`HOST:PORT`).
pub async fn discover(endpoint: &str, known: &Known) -> Result<Found, Failure> {
    let deadline = tokio::time::Instant::now() + SIGNING;
    let (told, kubeconfig, clock) = loop {
        let (data, date) = ask(endpoint, &client(endpoint, None, None)?).await?;
        match judge(endpoint, &data, known) {
            Judged::Good(told, kubeconfig) => break (told, kubeconfig, date),
            Judged::Bad(failure) => return Err(failure),
            // A new token signs a moment later.
            Judged::NotSigned(failure) if tokio::time::Instant::now() > deadline => return Err(failure),
            Judged::NotSigned(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    let clock = clock.map(|theirs| skew(theirs, Timestamp::now())).unwrap_or(Ok(None))?;
    // Once more, from who can prove to be that cluster.
    let client = client(endpoint, Some(&told.authority_pem), Some(&known.token))?;
    let anonymous = self::client(endpoint, Some(&told.authority_pem), None)?;
    let (again, _) = ask(endpoint, &anonymous).await?;
    if again.get("kubeconfig") != Some(&kubeconfig) {
        return Err(Failure::new(
            format!("{endpoint} tells another cluster-info to who knows its authority"),
            "is somebody in between? Look at the address",
        ));
    }
    Ok(Found { told, client, clock })
}

enum Judged {
    Good(Told, String),
    NotSigned(Failure),
    Bad(Failure),
}

/// Whether cluster-info comes from the cluster that was meant.
fn judge(endpoint: &str, data: &BTreeMap<String, String>, known: &Known) -> Judged {
    let token = &known.token;
    let Some(kubeconfig) = data.get("kubeconfig") else {
        return Judged::Bad(Failure::new(
            format!("cluster-info at {endpoint} has no kubeconfig in it"),
            "`cox up` where the cluster was made writes it",
        ));
    };
    let another = "`cox token create --print-join-command` where the cluster was made gives a new one";
    let Some(signature) = data.get(&signature_key(token)) else {
        return Judged::NotSigned(Failure::new(
            format!(
                "the cluster at {endpoint} knows no token {:?}: it has expired, was deleted, or is that of another cluster",
                token.id()
            ),
            another,
        ));
    };
    if !token.signed(kubeconfig, signature) {
        return Judged::Bad(Failure::new(
            format!(
                "the cluster at {endpoint} has another token {:?}: what follows the dot is not the same",
                token.id()
            ),
            format!("is it mistyped, or the address wrong? Else {another}"),
        ));
    }
    let told = match told(kubeconfig) {
        Ok(told) => told,
        Err(failure) => return Judged::Bad(failure),
    };
    match pki::public_key_pin(&told.authority_pem) {
        Err(error) => {
            Judged::Bad(Failure::new(format!("the cluster's authority cannot be read: {error}"), ""))
        }
        Ok(pin) if !known.pins.is_empty() && !known.pins.contains(&pin) => Judged::Bad(Failure::new(
            format!(
                "the cluster at {endpoint} is not the one that was meant: the key of its authority is {pin}"
            ),
            "the command is of another cluster or from before a change of the authority (then make a new one with \
             `cox token create --print-join-command`), or somebody is in between",
        )),
        Ok(_) => Judged::Good(told, kubeconfig.clone()),
    }
}

/// What to say of a server's clock, or why it is no use to go on.
fn skew(theirs: Timestamp, ours: Timestamp) -> Result<Option<String>, Failure> {
    let apart = ours.as_second() - theirs.as_second();
    let how = if apart < 0 { "behind" } else { "ahead of" };
    let text = format!("this host's clock is {} s {how} the API server's", apart.abs());
    let next = "let both follow a time server (`timedatectl set-ntp true`)";
    match apart.abs() {
        WORST_CLOCK.. => Err(Failure::new(
            format!("{text}: certificates would be \"not yet valid\", or expired, for one of them"),
            next,
        )),
        BAD_CLOCK.. => Ok(Some(format!("{text}; {next}"))),
        _ => Ok(None),
    }
}

/// A client of an endpoint. Without an authority it believes anybody, and is given nothing to tell.
fn client(
    endpoint: &str,
    authority: Option<&str>,
    token: Option<&BootstrapToken>,
) -> Result<Client, Failure> {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::new(format!("{endpoint:?} is no endpoint: {e}"), "want HOST:PORT")
    };
    let uri: http::Uri = format!("https://{endpoint}").parse().map_err(|e: http::uri::InvalidUri| bad(&e))?;
    let mut config = Config::new(uri);
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config.accept_invalid_certs = authority.is_none();
    if let Some(pem) = authority {
        let der = rustls_pki_types::pem::PemObject::pem_slice_iter(pem.as_bytes())
            .map(|der| der.map(|d: rustls_pki_types::CertificateDer<'_>| d.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Failure::new(format!("the cluster's authority cannot be read: {e}"), ""))?;
        config.root_cert = Some(der);
        config.auth_info.token = token.map(|t| t.expose().as_str().to_owned().into());
    }
    Client::try_from(config).map_err(|e| Failure::of(&e))
}

type Info = (BTreeMap<String, String>, Option<Timestamp>);

/// Reads cluster-info, and what the server's clock says.
async fn ask(endpoint: &str, client: &Client) -> Result<Info, Failure> {
    let request = http::Request::get(INFO).body(kube::client::Body::empty()).map_err(|e| Failure::of(&e))?;
    let asked = async {
        let answer = client.send(request).await.map_err(|e| unreached(endpoint, &cause(&e)))?;
        let date = answer.headers().get(http::header::DATE).and_then(|v| v.to_str().ok()).and_then(date);
        let status = answer.status();
        let cut = |e: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(format!("the answer of {endpoint} broke off: {e}"), "try again")
        };
        let body: Bytes = Limited::new(answer.into_body(), LIMIT).collect().await.map_err(cut)?.to_bytes();
        Ok((status, body, date))
    };
    let (status, body, date) = tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(unreached(endpoint, "timed out")))?;
    let data = serde_json::from_slice::<ConfigMap>(&body).ok().and_then(|info| info.data);
    match (status.as_u16(), data) {
        (200, Some(data)) => Ok((data, date)),
        (401 | 403 | 404, _) => Err(Failure::new(
            format!("the API server at {endpoint} shows no cluster-info ({status})"),
            "hosts can join clusters that `cox up` or kubeadm made; `cox up` where it was made writes what is missing",
        )),
        _ => Err(Failure::new(
            format!("{endpoint} answers {status}, and nothing that an API server would"),
            "is the address that of an API server or a balancer in front of some?",
        )),
    }
}

/// What is behind all the layers that pass it on.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// As HTTP writes times.
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// Why an endpoint was not reached, and what may help.
pub fn unreached(endpoint: &str, why: &str) -> Failure {
    let has = |words: &[&str]| words.iter().any(|w| why.to_lowercase().contains(&w.to_lowercase()));
    let next = if has(&["dns error", "failed to lookup", "name or service not known"]) {
        "that name is not known here; give an address, or see /etc/resolv.conf"
    } else if has(&["refused"]) {
        "nothing listens there: is that the port of the API server (6443), and does it run (`cox status`)?"
    } else if has(&["timed out", "timeout", "elapsed", "no route", "unreachable"]) {
        "is that the address of a control plane or of the load balancer, and does a firewall let this host through?"
    } else if has(&["NotValidYet", "not valid yet", "expired"]) {
        "compare the clocks of this host and the control planes (`date`): let both follow a time server"
    } else if has(&["UnknownIssuer", "unknown issuer", "BadSignature"]) {
        "its certificate is of another authority than the one it tells: is something in between that ends TLS?"
    } else if has(&["NotValidForName", "not valid for name"]) {
        "its certificate is not for that name: use one that it is for, or add this one to apiServer.extraNames in \
         cluster.yaml and run `cox up`"
    } else {
        "is that the address of an API server?"
    };
    Failure::new(format!("cannot reach the API server at {endpoint}: {why}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    fn authority() -> String {
        let subject = pki::Subject::new("kubernetes-ca");
        let life = Duration::from_secs(3600);
        let authority =
            pki::Authority::create(&subject, pki::KeyAlgorithm::EcdsaP256, life, Timestamp::now()).unwrap();
        authority.certificate_pem().to_owned()
    }

    fn info(pem: &str, secret: &str) -> BTreeMap<String, String> {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        let kubeconfig = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {data}\n    server: https://k8s.example.org:6443\n  \
             name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
        );
        let signature = pki::detached_signature(&kubeconfig, "abcdef", secret);
        [("kubeconfig".to_owned(), kubeconfig), ("jws-kubeconfig-abcdef".to_owned(), signature)].into()
    }

    fn known(token: &str, pins: &[&str]) -> Known {
        Known { token: token.parse().unwrap(), pins: pins.iter().map(|p| (*p).to_owned()).collect() }
    }

    #[test]
    fn only_the_cluster_that_was_meant_is_believed() {
        let pem = authority();
        let data = info(&pem, "0123456789abcdef");
        let pin = pki::public_key_pin(&pem).unwrap();
        let refused = |data: &BTreeMap<String, String>, known: &Known| match judge("e:1", data, known) {
            Judged::Good(..) => String::new(),
            Judged::Bad(failure) | Judged::NotSigned(failure) => failure.to_string(),
        };
        match judge("e:1", &data, &known(TOKEN, &["sha256:00", &pin])) {
            Judged::Good(told, _) => {
                assert_eq!(
                    told,
                    Told { endpoint: "k8s.example.org:6443".into(), authority_pem: pem.clone() }
                );
            }
            _ => panic!("not believed"),
        }
        let wrong = refused(&data, &known(TOKEN, &["sha256:00"]));
        assert!(wrong.contains("is not the one that was meant") && wrong.contains(&pin), "{wrong}");
        let unknown = refused(&data, &known("uvwxyz.0123456789abcdef", &[]));
        assert!(
            unknown.contains("knows no token \"uvwxyz\"") && unknown.contains("cox token create"),
            "{unknown}"
        );
        let other = refused(&data, &known("abcdef.ffffffffffffffff", &[]));
        assert!(other.contains("what follows the dot"), "{other}");
        // Another authority under the same signature.
        let mut forged = data.clone();
        forged.insert("kubeconfig".into(), info(&authority(), "x")["kubeconfig"].clone());
        assert!(refused(&forged, &known(TOKEN, &[])).contains("what follows the dot"));
        assert!(refused(&BTreeMap::new(), &known(TOKEN, &[])).contains("no kubeconfig"));
    }

    #[test]
    fn clocks_that_are_apart_are_told_before_certificates_fail() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        assert!(skew(at(0), at(2)).unwrap().is_none());
        let text = skew(at(0), at(60)).unwrap().unwrap();
        assert!(text.contains("60 s ahead of") && text.contains("time server"), "{text}");
        let failure = skew(at(1000), at(0)).unwrap_err().to_string();
        assert!(failure.contains("1000 s behind") && failure.contains("not yet valid"), "{failure}");
        assert_eq!(date("Fri, 20 Nov 2026 18:10:45 GMT"), Some("2026-11-20T18:10:45Z".parse().unwrap()));
        assert_eq!(date("yesterday"), None);
    }

    #[test]
    fn who_is_not_reached_is_told_with_what_may_help() {
        for (why, next) in [
            ("Connection refused (os error 111)", "nothing listens there"),
            ("operation timed out", "firewall"),
            ("dns error: failed to lookup address", "not known here"),
            ("invalid peer certificate: NotValidYet", "clocks"),
            ("invalid peer certificate: NotValidForName", "extraNames"),
        ] {
            let failure = unreached("e:1", why);
            assert!(failure.next.contains(next), "{why}: {failure}");
        }
    }
}
