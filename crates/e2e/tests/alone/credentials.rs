//! Credentials that are worth nothing, against a running server.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{ApiServer, Credentials, binary, run};
use jiff::{SignedDuration, Timestamp};
use pki::{Authority, CertificateSpec, KeyAlgorithm, PrivateKey, Subject, Usage};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate of a member of `system:masters`.
fn issue(
    authority: &Authority,
    from: Timestamp,
    server: &ApiServer,
    name: &str,
) -> Result<(PathBuf, PathBuf)> {
    let spec = CertificateSpec {
        subject: Subject::new("intruder").in_group("system:masters"),
        names: Vec::new(),
        usages: vec![Usage::Client],
        validity: DAY,
    };
    let issued = authority.issue(&spec, KeyAlgorithm::EcdsaP256, from)?;
    let path = |end: &str| server.dir().join(format!("{name}.{end}"));
    std::fs::write(path("crt"), &issued.certificate_pem)?;
    std::fs::write(path("key"), issued.key.to_pem())?;
    Ok((path("crt"), path("key")))
}

#[test]
fn worthless_credentials_are_refused_in_upstreams_words() -> Result<()> {
    let server = ApiServer::start(&binary(), None)?;
    let now = Timestamp::now();
    let files = server.pki().authority();
    let own = Authority::load(
        &std::fs::read_to_string(&files.certificate)?,
        PrivateKey::from_pem(&std::fs::read_to_string(&files.key)?)?,
    )?;
    // Of the same name as the cluster's.
    let foreign = Authority::create(&Subject::new("kubernetes-ca"), KeyAlgorithm::EcdsaP256, 10 * DAY, now)?;
    let good = issue(&own, now, &server, "good")?;
    let expired = issue(&own, now - SignedDuration::from_hours(48), &server, "expired")?;
    let strange = issue(&foreign, now, &server, "strange")?;

    let path = "/api/v1/namespaces/default/configmaps";
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
    let post = |credentials: &Credentials| {
        server.request(path).method("POST").body("application/json", body).http1().send(credentials)
    };
    let upstreams = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "Unauthorized",
        "reason": "Unauthorized", "code": 401,
    });
    let refused = [
        ("an expired certificate", Credentials::certificate(&expired.0, &expired.1)),
        ("a foreign certificate", Credentials::certificate(&strange.0, &strange.1)),
        ("a token that is none", Credentials::Token("not-a-token".into())),
        ("a token that nobody signed", Credentials::Token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.".into())),
    ];
    for (what, credentials) in refused {
        let (code, answer) = post(&credentials)?;
        let status: Value = serde_json::from_str(&answer)?;
        ensure!(code == "401" && status == upstreams, "{what}: {code} {answer}");
    }
    let (code, answer) = post(&Credentials::Anonymous)?;
    let words =
        "configmaps is forbidden: User \\\"system:anonymous\\\" cannot create resource \\\"configmaps\\\"";
    ensure!(code == "403" && answer.contains(words), "{code} {answer}");
    let (code, answer) = server.request(&format!("{path}/a")).send(&server.admin())?;
    ensure!(code == "404", "something was stored: {answer}");
    let (code, answer) = post(&Credentials::certificate(&good.0, &good.1))?;
    ensure!(code == "201", "a good certificate: {code} {answer}");

    // In kubectl's words.
    let mut command = server.kubectl().command();
    command.args(["get", "pods", "--kubeconfig=/dev/null"]);
    command.arg(format!("--server=https://127.0.0.1:{}", server.port()));
    command.arg("--certificate-authority").arg(&files.certificate);
    command.arg("--client-certificate").arg(&expired.0).arg("--client-key").arg(&expired.1);
    let answer = run(command, None, Duration::from_secs(30))?;
    ensure!(
        answer.code == Some(1) && answer.err.contains("You must be logged in to the server"),
        "{:?} {}",
        answer.code,
        answer.err
    );
    Ok(())
}
