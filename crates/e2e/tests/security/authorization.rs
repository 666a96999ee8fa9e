//! What one may, by a server that is asked and by a file that is followed.
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{eventually, run};

use crate::authority::Pair;
use crate::binary;
use crate::control_plane::ControlPlane;
use crate::hook::Webhook;

/// Clients by name.
fn people(plane: &ControlPlane) -> Result<[Pair; 3]> {
    let person = |name: &str| plane.ca.client(name, &format!("/O=devs/CN={name}"));
    Ok([person("hooked")?, person("banned")?, person("jane")?])
}

const PODS: &str = "/api/v1/namespaces/default/pods";

/// `--authorization-mode=Node,RBAC,Webhook`.
pub fn webhook() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let hook = Webhook::new(dir.path())?;
    let process = hook.start()?;
    let config = hook.config();
    let flags = [
        "--authorization-mode=Node,RBAC,Webhook",
        "--authorization-webhook-config-file",
        &config,
        "--authorization-webhook-version=v1",
        "--authorization-webhook-cache-unauthorized-ttl=1h",
    ];
    let plane = ControlPlane::start_in(dir, &flags, &[])?;
    let [hooked, banned, jane] = people(&plane)?;
    let expect = |pair: &Pair, target: &str, code: u16, text: &str| -> Result<()> {
        let got = plane.curl(pair, target)?;
        ensure!(
            got.0 == code && got.1.contains(text),
            "{target}: {got:?}, want {code} {text}\n{}",
            plane.log()
        );
        Ok(())
    };
    expect(&hooked, PODS, 200, "PodList")?;
    expect(&banned, PODS, 403, "in the namespace \\\"default\\\": never again")?;
    expect(&jane, PODS, 403, "User \\\"jane\\\" cannot list resource \\\"pods\\\"")?;
    expect(&hooked, "/metrics", 200, "apiserver_request_total")?;

    // What is asked is upstream's question, and nothing is asked about those whom others allow.
    let asked = hook.questions();
    let about = |user: &str| asked.iter().find(|q| q["spec"]["user"] == user).cloned().unwrap_or_default();
    let question = about("jane");
    ensure!(question["apiVersion"] == "authorization.k8s.io/v1", "{question}");
    let attributes =
        serde_json::json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "pods"});
    ensure!(question["spec"]["resourceAttributes"] == attributes, "{question}");
    ensure!(question["spec"]["groups"] == serde_json::json!(["devs", "system:authenticated"]), "{question}");
    ensure!(about("admin").is_null(), "asked about a master");

    // Answers are kept; `auth can-i` asks the same way.
    let before = hook.questions().len();
    for pair in [&hooked, &banned, &jane] {
        plane.curl(pair, PODS)?;
    }
    ensure!(hook.questions().len() == before, "the answers are not kept");
    let can = plane.kubeconfig("hooked", &hooked)?;
    ensure!(can.run("auth can-i create nodes")?.trim() == "yes", "can-i says no");

    // Without its server: who is allowed by others goes on, what is remembered is, and the rest fails as an error does.
    drop(process);
    plane.kubectl().run("create clusterrolebinding jane --clusterrole=view --user=jane")?;
    eventually("RBAC allows without the webhook", Duration::from_secs(30), || {
        expect(&jane, PODS, 200, "PodList")
    })?;
    expect(&hooked, PODS, 200, "PodList")?;
    let nodes = "/api/v1/nodes";
    expect(&banned, nodes, 500, "Internal Server Error: \\\"/api/v1/nodes\\\": Post")?;
    let review = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview",
        "spec":{"resourceAttributes":{"verb":"list","resource":"secrets"}}}"#;
    let arguments =
        ["--cert", banned.certificate(), "--key", banned.key(), "-H", "Content-Type: application/json"];
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    // Even that question takes the right to ask it, which RBAC gives to everybody.
    let got = plane.curl_with(&[&arguments[..], &["-d", review]].concat(), reviews)?;
    ensure!(
        got.0 == 201 && got.1.contains("\"allowed\":false") && got.1.contains("evaluationError"),
        "{got:?}"
    );
    // Back again, it is asked again.
    let _process = hook.start()?;
    expect(&hooked, nodes, 200, "NodeList")?;
    expect(&banned, nodes, 403, "never again")
}

/// `--authorization-config`, followed while the server runs.
pub fn config() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let hook = Webhook::new(dir.path())?;
    let process = hook.start()?;
    let path = dir.path().join("authorization.yaml");
    let write = |authorizers: &str| -> Result<()> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{head}authorizers:\n{authorizers}"))?;
        Ok(std::fs::rename(new, &path)?)
    };
    let webhook = format!(
        "- {{type: Webhook, name: hook.example.com, webhook: {{timeout: 3s, cacheAuthorizedRequests: false, \
         cacheUnauthorizedRequests: false, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {{type: \
         KubeConfigFile, kubeConfigFile: '{}'}}}}}}\n",
        hook.config()
    );
    let rbac = "- {type: RBAC, name: rbac}\n";
    write(&format!("{webhook}{rbac}"))?;
    let file = path.display().to_string();
    let plane = ControlPlane::start_in(dir, &["--authorization-config", &file], &[])?;
    let [hooked, banned, jane] = people(&plane)?;
    plane.kubectl().run("create clusterrolebinding view --clusterrole=view --group=devs")?;
    let code = |pair: &Pair| Ok::<_, anyhow::Error>(plane.curl(pair, PODS)?.0);
    eventually("the binding counts", Duration::from_secs(30), || {
        let got = (code(&hooked)?, code(&banned)?, code(&jane)?);
        ensure!(got == (200, 403, 200), "{got:?}");
        Ok(())
    })?;
    // It comes first: what it denies, nobody else may allow; without an answer it denies as well.
    drop(process);
    ensure!(code(&jane)? == 500, "a webhook that is down and whose policy is Deny let somebody through");
    ensure!(plane.curl(&plane.pair("admin"), PODS)?.0 == 200, "the masters cannot mend it");
    // A file that cannot be used changes nothing; a good one counts at once.
    write("- {type: Magic, name: x}\n")?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(code(&jane)? == 500, "a broken file was taken");
    write(rbac)?;
    eventually("the file counts", Duration::from_secs(30), || {
        let got = (code(&hooked)?, code(&banned)?, code(&jane)?);
        ensure!(got == (200, 200, 200), "{got:?}");
        Ok(())
    })?;
    drop(plane);

    // What makes no sense is refused before anything starts.
    for (flags, want) in [
        (
            &["--authorization-mode=Node,Webhook"][..],
            "authorization-mode Webhook's authorization config file not passed",
        ),
        (&["--authorization-mode=Magic"], "authorization-mode \"Magic\" is not a valid mode"),
        (
            &["--authorization-mode=RBAC", "--authorization-config=/x"],
            "--authorization-config can not be specified when",
        ),
    ] {
        refused(flags, want)?;
    }
    Ok(())
}

/// Starts an API server that has to end at once, and say why.
pub fn refused(flags: &[&str], want: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(binary());
    command.args(["kube-apiserver", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"]);
    command.arg("--data-dir").arg(dir.path().join("db"));
    for flag in [
        "tls-cert-file",
        "tls-private-key-file",
        "client-ca-file",
        "service-account-signing-key-file",
        "service-account-key-file",
        "service-account-issuer",
    ] {
        command.arg(format!("--{flag}=/nonexistent"));
    }
    command.args(flags);
    let answer = run(command, None, Duration::from_secs(30))?;
    ensure!(answer.code != Some(0), "{flags:?} was taken");
    ensure!(answer.err.contains(want), "{flags:?}: {}\nwant {want}", answer.err);
    Ok(())
}
