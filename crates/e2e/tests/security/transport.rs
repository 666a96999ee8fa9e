//! TLS as `openssl s_client` sees it.
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::run;

use crate::authority::{Authority, openssl};
use crate::binary;
use crate::control_plane::ControlPlane;

/// What a handshake with these arguments agrees on; `None` where it fails.
fn handshake(plane: &ControlPlane, arguments: &[&str]) -> Result<Option<String>> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", plane.port)]).args(arguments);
    let answer = run(command, Some(""), Duration::from_secs(30))?;
    let text = answer.out + &answer.err;
    Ok((text.contains("BEGIN CERTIFICATE") && !text.contains("Cipher is (NONE)")).then_some(text))
}

/// Versions, suites, names.
pub fn transport() -> Result<()> {
    let plane = ControlPlane::start(&[], &[])?;
    for (arguments, want) in [
        (&["-tls1_2"][..], Some("TLSv1.2")),
        (&["-tls1_3"], Some("TLSv1.3")),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], None),
        (&["-tls1_2", "-cipher", "AES128-SHA"], None),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], Some("ECDHE-ECDSA-AES256-GCM-SHA384")),
        (&["-alpn", "h2"], Some("ALPN protocol: h2")),
    ] {
        let got = handshake(&plane, arguments)?;
        let fits = match (want, &got) {
            (Some(want), Some(text)) => text.contains(want),
            (None, None) => true,
            _ => false,
        };
        ensure!(fits, "{arguments:?}: want {want:?}, got {got:?}");
    }
    drop(plane);

    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let others = Authority::new(dir.path().join("sni"), "sni-ca")?;
    let one = others.server("one", "DNS:one.example")?;
    let wild = others.server("wild", "DNS:wild.example")?;
    let (one, wild) = (
        format!("{},{}", one.certificate(), one.key()),
        format!("{},{}:*.wild.example", wild.certificate(), wild.key()),
    );
    let flags = [
        "--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "--tls-sni-cert-key",
        &one,
        "--tls-sni-cert-key",
        &wild,
    ];
    let plane = ControlPlane::start_in(dir, &flags, &[])?;
    ensure!(
        handshake(&plane, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"])?.is_none(),
        "a suite that was not chosen is spoken"
    );
    ensure!(handshake(&plane, &["-tls1_2"])?.is_some(), "the chosen suite is not spoken");
    for (name, want) in [
        ("one.example", "one.example"),
        ("a.wild.example", "wild.example"),
        ("x.example", "localhost"),
        ("", "localhost"),
    ] {
        let arguments: &[&str] = if name.is_empty() { &["-noservername"] } else { &["-servername", name] };
        let shown = handshake(&plane, arguments)?.unwrap_or_default();
        std::fs::write(plane.path("shown.pem"), shown)?;
        let names =
            openssl(plane.dir.path(), &["x509", "-in", "shown.pem", "-noout", "-ext", "subjectAltName"])?;
        ensure!(names.contains(want), "{name:?} is shown {names}");
    }
    drop(plane);

    let plane = ControlPlane::start(&["--tls-min-version=VersionTLS13"], &[])?;
    ensure!(handshake(&plane, &["-tls1_2"])?.is_none(), "TLS 1.2 is spoken");
    ensure!(handshake(&plane, &["-tls1_3"])?.is_some(), "TLS 1.3 is not spoken");

    for (flag, want) in [
        ("--tls-cipher-suites=TLS_RSA_WITH_RC4_128_SHA", "known are TLS_AES_128_GCM_SHA256"),
        ("--tls-min-version=TLS1.2", "known are VersionTLS12"),
    ] {
        let mut command = Command::new(binary());
        command.args(["kube-apiserver", flag]);
        let answer = run(command, None, Duration::from_secs(20))?;
        ensure!(answer.code != Some(0) && answer.err.contains(want), "{flag}: {answer:?}");
    }
    Ok(())
}
