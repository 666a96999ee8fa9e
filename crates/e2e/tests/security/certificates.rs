//! Client certificates: which are honoured, and what they name.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;

use crate::authority::{Authority, Pair, openssl};
use crate::control_plane::ControlPlane;

/// Allowed and refused, each as somebody would make it.
pub fn table() -> Result<()> {
    let plane = ControlPlane::start(&[], &[])?;
    let ca = &plane.ca;
    let other = Authority::new(plane.path("other"), "test-ca")?;
    let (past, soon, late) = ("20200101000000Z", "20200201000000Z", "20400101000000Z");
    let good = |file: &str, subject: &str| ca.client(file, subject);
    let cases: Vec<(&str, Pair, u16, &str)> = vec![
        ("good", good("jane", "/O=devs/CN=jane")?, 201, "jane"),
        ("expired", ca.issue("expired", "/CN=jane", "client", Some((past, soon)), "")?, 401, ""),
        (
            "not yet valid",
            ca.issue("early", "/CN=jane", "client", Some((late, "20410101000000Z")), "")?,
            401,
            "",
        ),
        ("another CA of the same name", other.client("jane", "/CN=jane")?, 401, ""),
        ("for servers only", ca.issue("server-only", "/CN=jane", "server", None, "")?, 401, ""),
        ("a path as name", good("path", "/CN=..\\/..\\/admin")?, 201, "../../admin"),
        ("quotes", good("quotes", "/CN=a\"b'c")?, 201, "a\"b'c"),
        ("spaces", good("spaces", "/CN=a b ")?, 201, "a b "),
        ("UTF-8", good("utf8", "/CN=jörg-ø-ü")?, 201, "jörg-ø-ü"),
        ("a colon name", good("colons", "/CN=system:kube-scheduler")?, 201, "system:kube-scheduler"),
    ];
    for (what, pair, code, name) in cases {
        let got = plane.who(&["--cert", pair.certificate(), "--key", pair.key()])?;
        ensure!(got == (code, name.to_owned()), "{what}: {got:?}, want {code} {name:?}\n{}", plane.log());
    }
    // A certificate that names nobody makes nobody of its bearer: anonymous, who may not even ask.
    let unnamed = good("unnamed", "/O=system:masters")?;
    let (code, text) = plane.curl(&unnamed, "/api/v1/secrets")?;
    ensure!(code == 403 && text.contains("system:anonymous"), "{code} {text}");

    // `kubectl` shows who one is, groups included, and a revoked user may do nothing more.
    let jane = plane.kubeconfig("jane", &plane.pair("jane"))?;
    let who = jane.run("auth whoami -o json")?;
    ensure!(who.contains("\"devs\"") && who.contains("\"system:authenticated\""), "{who}");
    ensure!(who.contains("X509SHA256="), "{who}");
    plane.kubectl().run("create clusterrolebinding jane --clusterrole=view --user=jane")?;
    eventually("the binding counts", Duration::from_secs(10), || jane.run("get pods -A"))?;
    plane.kubectl().run("delete clusterrolebinding jane")?;
    eventually("the revocation counts", Duration::from_secs(10), || {
        let refused = jane.refused("get pods -A")?;
        ensure!(refused.contains("cannot list resource \"pods\""), "{refused}");
        Ok(())
    })?;

    // Another's certificate without its key is worth nothing: the handshake fails.
    let stolen = Pair { certificate: plane.pair("admin").certificate, key: plane.pair("jane").key };
    ensure!(plane.curl(&stolen, "/api").is_err(), "a certificate was honoured without its key");
    Ok(())
}

/// Files are replaced under a running server.
pub fn reload() -> Result<()> {
    let plane = ControlPlane::start(&[], &[])?;
    let other = Authority::new(plane.path("other"), "other-ca")?;
    let stranger = other.client("stranger", "/CN=stranger")?;
    let who = |pair: &Pair| plane.who(&["--cert", pair.certificate(), "--key", pair.key()]);
    ensure!(who(&stranger)?.0 == 401, "a stranger was let in");
    let (ca_path, own) = (plane.path("pki/ca.pem"), std::fs::read_to_string(plane.ca.certificate())?);
    let both = format!("{own}{}", std::fs::read_to_string(other.certificate())?);
    // The file that the server reads; curl has to go on trusting the server by a copy.
    std::fs::write(plane.path("pki/copy.pem"), &own)?;
    std::fs::write(&ca_path, both)?;
    eventually("the new CA counts", Duration::from_secs(10), || {
        let (code, name) = who(&stranger)?;
        ensure!(code == 201 && name == "stranger", "{code} {name}");
        Ok(())
    })?;
    std::fs::write(&ca_path, "half a fi")?;
    std::thread::sleep(Duration::from_millis(1500));
    let copied = plane.path("pki/copy.pem");
    let trust = copied.to_str().unwrap_or_default();
    let with_copy =
        |pair: &Pair| plane.who(&["--cacert", trust, "--cert", pair.certificate(), "--key", pair.key()]);
    ensure!(with_copy(&stranger)?.0 == 201, "a broken file ended the service");
    std::fs::write(&ca_path, &own)?;
    // What was checked a moment ago is remembered no longer than the file lasts.
    eventually("the removed CA does not count", Duration::from_secs(10), || {
        let (code, name) = who(&stranger)?;
        ensure!(code == 401, "{code} {name}");
        Ok(())
    })?;

    let serial = || -> Result<String> {
        let address = format!("127.0.0.1:{}", plane.port);
        let shown = openssl(plane.dir.path(), &["s_client", "-connect", &address, "-showcerts"])?;
        std::fs::write(plane.path("shown.pem"), shown)?;
        openssl(plane.dir.path(), &["x509", "-in", "shown.pem", "-noout", "-serial"])
    };
    let before = serial()?;
    plane.ca.server("server", "DNS:localhost,IP:127.0.0.1")?;
    eventually("the new serving certificate is shown", Duration::from_secs(10), || {
        ensure!(serial()? != before, "still {before}");
        Ok(())
    })?;
    ensure!(plane.curl(&plane.pair("admin"), "/readyz")?.0 == 200, "not served any more");
    Ok(())
}

/// Keys and certificates behind links, as volumes of Kubernetes have them: what changes is where a link leads.
pub fn links() -> Result<()> {
    use std::os::unix::fs::symlink;
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let others = Authority::new(dir.path().join("linked"), "linked-ca")?;
    let (one, two) = (others.server("one", "DNS:one.example")?, others.server("two", "DNS:two.example")?);
    let folder = |name: &str, pair: &Pair| -> Result<()> {
        let path = dir.path().join(name);
        std::fs::create_dir(&path)?;
        std::fs::copy(&pair.certificate, path.join("tls.crt"))?;
        std::fs::copy(&pair.key, path.join("tls.key"))?;
        Ok(())
    };
    folder("v1", &one)?;
    folder("v2", &two)?;
    symlink("v1", dir.path().join("..data"))?;
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), dir.path().join(file))?;
    }
    let path = |file: &str| dir.path().join(file).display().to_string();
    let sni = format!("{},{}:linked.example", path("tls.crt"), path("tls.key"));
    let (root, data) = (dir.path().to_owned(), dir.path().join("..data"));
    let plane = ControlPlane::start_in(dir, &["--tls-sni-cert-key", &sni], &[])?;
    let shown = || -> Result<String> {
        let address = format!("127.0.0.1:{}", plane.port);
        let shown =
            openssl(plane.dir.path(), &["s_client", "-connect", &address, "-servername", "linked.example"])?;
        std::fs::write(plane.path("shown.pem"), shown)?;
        openssl(plane.dir.path(), &["x509", "-in", "shown.pem", "-noout", "-ext", "subjectAltName"])
    };
    let names = shown()?;
    ensure!(names.contains("one.example"), "{names}");
    // The link is exchanged in one step.
    symlink("v2", root.join("..new"))?;
    std::fs::rename(root.join("..new"), &data)?;
    eventually("the other certificate is shown", Duration::from_secs(30), || {
        let names = shown()?;
        ensure!(names.contains("two.example"), "{names}");
        Ok(())
    })?;
    // A link that leads nowhere, or to what is no key, ends nothing.
    for target in ["nowhere", "/dev"] {
        let _ = std::fs::remove_file(root.join("..new"));
        symlink(target, root.join("..new"))?;
        std::fs::rename(root.join("..new"), &data)?;
        std::thread::sleep(Duration::from_millis(1500));
        let names = shown()?;
        ensure!(names.contains("two.example"), "{target}: {names}");
    }
    Ok(())
}
