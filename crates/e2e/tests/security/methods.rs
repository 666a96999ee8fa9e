//! Ways in that ask others: an OpenID Connect issuer, a webhook, a front proxy; and anonymous requests by path.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{eventually, free_port};
use serde_json::{Value, json};

use crate::authority::{Authority, openssl};
use crate::control_plane::{ControlPlane, Process};

/// An issuer: a directory of files that `openssl s_server` serves, and a key that `openssl` signs with.
struct Issuer {
    dir: tempfile::TempDir,
    url: String,
    ca: String,
    _server: Process,
}

fn base64url(dir: &Path, file: &str) -> Result<String> {
    let text = openssl(dir, &["base64", "-A", "-in", file])?;
    Ok(text.trim().replace('+', "-").replace('/', "_").replace('=', ""))
}

impl Issuer {
    fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-issuer-").tempdir()?;
        let authority = Authority::new(dir.path().join("pki"), "issuer-ca")?;
        let pair = authority.server("server", "DNS:localhost,IP:127.0.0.1")?;
        let port = free_port()?;
        let url = format!("https://localhost:{port}");
        std::fs::create_dir_all(dir.path().join("www/.well-known"))?;
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        std::fs::write(dir.path().join("www/.well-known/openid-configuration"), discovery.to_string())?;
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-WWW", "-accept", &format!("127.0.0.1:{port}")]);
        command.args(["-cert", pair.certificate(), "-key", pair.key()]).current_dir(dir.path().join("www"));
        let log = dir.path().join("log");
        let ca = authority.certificate().display().to_string();
        let issuer = Self { _server: Process::start(command, &log)?, dir, url, ca };
        issuer.new_key()?;
        Ok(issuer)
    }

    /// Another key to sign with, published.
    fn new_key(&self) -> Result<()> {
        let dir = self.dir.path();
        openssl(
            dir,
            &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem"],
        )?;
        let modulus = openssl(dir, &["rsa", "-in", "key.pem", "-noout", "-modulus"])?;
        let modulus =
            modulus.trim().strip_prefix("Modulus=").context("openssl printed no modulus")?.to_owned();
        let bytes: Vec<u8> = (0..modulus.len() / 2)
            .filter_map(|i| u8::from_str_radix(&modulus[2 * i..2 * i + 2], 16).ok())
            .collect();
        std::fs::write(dir.join("n"), bytes)?;
        let id = &modulus[..8];
        let jwks = json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": base64url(dir, "n")?, "e": "AQAB"}]});
        std::fs::write(dir.join("kid"), id)?;
        std::fs::write(dir.join("www/keys"), jwks.to_string())?;
        Ok(())
    }

    fn token(&self, change: &Value) -> Result<String> {
        let dir = self.dir.path();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let mut claims =
            json!({"iss": self.url, "aud": "cox", "sub": "jane", "exp": now + 600, "groups": ["devs"]});
        for (k, v) in change.as_object().into_iter().flatten() {
            claims[k] = v.clone();
        }
        let header = json!({"alg": "RS256", "kid": std::fs::read_to_string(dir.join("kid"))?});
        std::fs::write(dir.join("header"), header.to_string())?;
        std::fs::write(dir.join("claims"), claims.to_string())?;
        let message = format!("{}.{}", base64url(dir, "header")?, base64url(dir, "claims")?);
        std::fs::write(dir.join("message"), &message)?;
        openssl(dir, &["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "message"])?;
        Ok(format!("{message}.{}", base64url(dir, "signature")?))
    }
}

/// Tokens of an issuer on loopback, by flags and by configuration file.
pub fn oidc() -> Result<()> {
    let issuer = Issuer::start()?;
    let flags = [
        "--oidc-issuer-url",
        &issuer.url,
        "--oidc-client-id=cox",
        "--oidc-ca-file",
        &issuer.ca,
        "--oidc-username-prefix=oidc:",
        "--oidc-groups-claim=groups",
        "--oidc-groups-prefix=oidc:",
        "--oidc-required-claim=hd=example.com",
    ];
    let plane = ControlPlane::start(&flags, &[])?;
    let who = |plane: &ControlPlane, change: Value| -> Result<(u16, String)> {
        plane.who(&["-H", &format!("Authorization: Bearer {}", issuer.token(&change)?)])
    };
    let domain = |more: Value| {
        let mut all = json!({"hd": "example.com"});
        for (k, v) in more.as_object().into_iter().flatten() {
            all[k] = v.clone();
        }
        all
    };
    let good = who(&plane, domain(json!({})))?;
    ensure!(good == (201, "oidc:jane".into()), "{good:?}\n{}", plane.log());
    for change in [
        json!({}),
        domain(json!({"hd": "evil.example"})),
        domain(json!({"aud": "other"})),
        domain(json!({"exp": 1})),
        domain(json!({"iss": "https://other.example"})),
    ] {
        let got = who(&plane, change.clone())?;
        ensure!(got.0 == 401, "{change}: {got:?}");
    }
    // Groups count: a binding for one lets its members in.
    plane.kubectl().run("create clusterrolebinding devs --clusterrole=view --group=oidc:devs")?;
    let jane = plane.kubeconfig_with_token("jane", &issuer.token(&domain(json!({})))?)?;
    eventually("the group counts", Duration::from_secs(10), || jane.run("get pods -A"))?;
    // The issuer changes its key.
    issuer.new_key()?;
    eventually("the new key counts", Duration::from_secs(15), || {
        let got = who(&plane, domain(json!({})))?;
        ensure!(got.0 == 201, "{got:?}");
        Ok(())
    })?;
    drop(plane);

    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let ca = std::fs::read_to_string(&issuer.ca)?.replace('\n', "\n      ");
    let file = dir.path().join("authentication.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    \
         audiences: [x, cox]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n      {ca}\n  claimMappings:\n    \
         username: {{claim: sub, prefix: 'file:'}}\n    groups: {{claim: groups, prefix: ''}}\n    uid: {{claim: sub}}\nanonymous:\n  \
         enabled: true\n  conditions: [{{path: /livez}}]\n",
        issuer.url
    );
    std::fs::write(&file, text)?;
    let path = file.display().to_string();
    let plane = ControlPlane::start_in(dir, &["--authentication-config", &path], &[])?;
    let good = who(&plane, json!({"aud": ["x"]}))?;
    ensure!(good == (201, "file:jane".into()), "{good:?}\n{}", plane.log());
    for (target, code) in [("/livez", 200), ("/livez/ping", 401), ("/version", 401), ("/api", 401)] {
        let got = plane.curl_with(&[], target)?;
        ensure!(got.0 == code, "{target}: {got:?}");
    }
    Ok(())
}

/// A server that answers every TokenReview the same.
pub fn webhook() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let authority = Authority::new(dir.path().join("webhook"), "webhook-ca")?;
    let pair = authority.server("server", "DNS:localhost,IP:127.0.0.1")?;
    let port = free_port()?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {"authenticated": true,
        "user": {"username": "hooked", "groups": ["devs"]}}})
    .to_string();
    let reply =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{review}", review.len());
    std::fs::write(dir.path().join("reply"), reply)?;
    let script = dir.path().join("answer");
    // The request is read until its JSON ends, then answered.
    let asked = dir.path().join("asked");
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nhead -c 1 >/dev/null\necho x >>{}\ncat {}\nsleep 0.2\n",
            asked.display(),
            dir.path().join("reply").display()
        ),
    )?;
    let mut command = Command::new("socat");
    command.arg(format!(
        "OPENSSL-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,verify=0,cert={},key={}",
        pair.certificate(),
        pair.key()
    ));
    command.arg(format!("SYSTEM:sh {}", script.display()));
    let _server = Process::start(command, &dir.path().join("socat.log"))?;
    let config = dir.path().join("webhook.kubeconfig");
    std::fs::write(
        &config,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{{name: s, cluster: {{server: \
             'https://localhost:{port}/authenticate', certificate-authority: {}}}}}]\ncontexts: [{{name: w, context: {{cluster: s, \
             user: u}}}}]\nusers: [{{name: u}}]\n",
            authority.certificate().display()
        ),
    )?;
    let path = config.display().to_string();
    let flags = [
        "--authentication-token-webhook-config-file",
        path.as_str(),
        "--authentication-token-webhook-version=v1",
    ];
    let plane = ControlPlane::start_in(dir, &flags, &[])?;
    let who = || plane.who(&["-H", "Authorization: Bearer opaque"]);
    let got = who()?;
    ensure!(got == (201, "hooked".into()), "{got:?}\n{}", plane.log());
    let questions = || std::fs::read_to_string(&asked).map(|t| t.lines().count()).unwrap_or_default();
    let once = questions();
    for _ in 0..5 {
        ensure!(who()?.0 == 201, "the answer was forgotten");
    }
    ensure!(questions() == once, "the answer is not kept: {once} and then {}", questions());
    Ok(())
}

/// A proxy that says for whom it speaks, believed by its certificate alone.
pub fn front_proxy() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let proxies = Authority::new(dir.path().join("front"), "front-proxy-ca")?;
    let proxy = proxies.client("proxy", "/CN=front-proxy-client")?;
    let other = proxies.client("other", "/CN=other")?;
    let ca = proxies.certificate().display().to_string();
    let flags = [
        "--requestheader-client-ca-file",
        ca.as_str(),
        "--requestheader-allowed-names=front-proxy-client",
        "--anonymous-auth=false",
    ];
    let plane = ControlPlane::start_in(dir, &flags, &["--controllers=-*"])?;
    let speak = |pair: &crate::authority::Pair| {
        plane.who(&[
            "--cert",
            pair.certificate(),
            "--key",
            pair.key(),
            "-H",
            "X-Remote-User: jane",
            "-H",
            "X-Remote-Group: devs",
        ])
    };
    let got = speak(&proxy)?;
    ensure!(got == (201, "jane".into()), "{got:?}\n{}", plane.log());
    let got = speak(&other)?;
    ensure!(got.0 == 401, "a proxy of another name was believed: {got:?}");
    let got = speak(&plane.pair("admin"))?;
    ensure!(got == (201, "admin".into()), "the headers of a client were believed: {got:?}");
    let got = plane.who(&["-H", "X-Remote-User: admin", "-H", "X-Remote-Group: system:masters"])?;
    ensure!(got.0 == 401, "headers without a certificate were believed: {got:?}");
    // Aggregated servers learn of the proxy from a ConfigMap.
    let map = plane
        .kubectl()
        .within("kube-system")
        .run("get configmap extension-apiserver-authentication -o yaml")?;
    ensure!(
        map.contains("requestheader-client-ca-file") && map.contains("[\"front-proxy-client\"]"),
        "{map}"
    );
    for target in ["/livez", "/version", "/api"] {
        let got = plane.curl_with(&[], target)?;
        ensure!(got.0 == 401, "{target}: {got:?}");
    }
    Ok(())
}

/// `--token-auth-file` and ABAC, as the oldest guides have them: each token and each rule a line of a file.
pub fn files() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let tokens = dir.path().join("token.csv");
    std::fs::write(
        &tokens,
        "chAng3m3,admin,admin\nseCret,kubelet,kubelet,\"system:nodes,devs\"\ndouble,joe,1\n",
    )?;
    let rules = dir.path().join("authorization-policy.jsonl");
    let rule = |spec: &str| {
        format!(
            "{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\",\"spec\":{{{spec}}}}}\n"
        )
    };
    std::fs::write(
        &rules,
        [
            rule(r#""user":"*","nonResourcePath":"/version","readonly":true"#),
            rule(r#""user":"admin","namespace":"*","resource":"*","apiGroup":"*""#),
            rule(r#""group":"devs","namespace":"default","resource":"pods","readonly":true"#),
        ]
        .concat(),
    )?;
    let flags = [
        "--token-auth-file",
        &tokens.display().to_string(),
        "--authorization-mode=ABAC",
        "--authorization-policy-file",
        &rules.display().to_string(),
    ];
    let plane = ControlPlane::start_in(dir, &flags, &[])?;
    let ask = |token: &str, target: &str| {
        Ok::<_, anyhow::Error>(plane.curl_with(&["-H", &format!("Authorization: Bearer {token}")], target)?.0)
    };
    let pods = "/api/v1/namespaces/default/pods";
    for (token, target, want) in [
        ("chAng3m3", "/api/v1/nodes", 200),
        ("chAng3m3", pods, 200),
        ("chAng3m3", "/metrics", 403),
        ("seCret", pods, 200),
        ("seCret", "/api/v1/namespaces/kube-system/pods", 403),
        ("seCret", "/api/v1/namespaces/default/secrets", 403),
        ("seCret", "/version", 200),
        ("double", pods, 403),
        ("secret", pods, 401),
        ("chAng3m3x", pods, 401),
        ("", pods, 403),
    ] {
        let got = ask(token, target)?;
        ensure!(got == want, "{token:?} {target}: {got}, want {want}\n{}", plane.log());
    }
    // Readers do not write.
    let body = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x"}]}}"#;
    let arguments =
        ["-H", "Authorization: Bearer seCret", "-H", "Content-Type: application/json", "-d", body];
    let got = plane.curl_with(&arguments, pods)?;
    ensure!(got.0 == 403 && got.1.contains("No policy matched."), "{got:?}");
    // Nor does anybody get in by the name of a mode that denies all.
    drop(plane);
    let plane = ControlPlane::start(&["--authorization-mode=AlwaysDeny"], &[])?;
    let jane = plane.ca.client("jane", "/CN=jane")?;
    let got = plane.curl(&jane, pods)?;
    ensure!(got.0 == 403 && got.1.contains("Everything is forbidden."), "{got:?}");
    Ok(())
}
