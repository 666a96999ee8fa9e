//! Tokens of service accounts, what nodes may ask for, and names that try to climb.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;

use crate::authority::Pair;
use crate::control_plane::ControlPlane;

fn pod(name: &str, node: &str, account: &str, secret: &str) -> String {
    let volume = if secret.is_empty() {
        String::new()
    } else {
        format!("  volumes: [{{name: s, secret: {{secretName: {secret}}}}}]\n")
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: '{node}'\n  serviceAccountName: \
         {account}\n  containers: [{{name: c, image: x}}]\n{volume}"
    )
}

/// Bound tokens, tokens of Secrets, TokenReview, and replays.
pub fn tokens() -> Result<()> {
    let plane = ControlPlane::start(&[], &["--controllers=*"])?;
    let kubectl = plane.kubectl();
    kubectl.run("create namespace a")?;
    let a = kubectl.within("a");
    a.run("create serviceaccount bot")?;
    let who = |token: &str| plane.who(&["-H", &format!("Authorization: Bearer {}", token.trim())]);
    let bot = (201, "system:serviceaccount:a:bot".to_owned());
    let refused = (401, String::new());

    let plain = a.run("create token bot")?;
    ensure!(who(&plain)? == bot, "{:?}", who(&plain)?);
    let shown = plane.kubeconfig_with_token("bot", &plain)?.run("auth whoami -o json")?;
    ensure!(shown.contains("system:serviceaccounts:a") && shown.contains("JTI="), "{shown}");
    let vault = a.run("create token bot --audience vault")?;
    ensure!(who(&vault)? == refused, "a token for others was honoured");

    // TokenReview says the same, for the audiences that are asked about.
    let review = |token: &str, audiences: &str| {
        kubectl.feed(
            "create -o jsonpath={.status.authenticated},{.status.user.username},{.status.audiences}",
            &format!(
                "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {}, audiences: [{audiences}]}}\n",
                token.trim()
            ),
        )
    };
    let answer = review(&vault, "vault")?;
    ensure!(answer == "true,system:serviceaccount:a:bot,[\"vault\"]", "{answer}");
    ensure!(!review(&vault, "other")?.starts_with("true"), "good for an audience that it is not for");
    ensure!(!review("garbage", "")?.starts_with("true"), "garbage is somebody");

    // Bound to a pod: gone with it, and not revived by another of its name.
    a.feed("create", &pod("p", "", "bot", ""))?;
    let bound = a.run("create token bot --bound-object-kind Pod --bound-object-name p")?;
    ensure!(who(&bound)? == bot, "{:?}", who(&bound)?);
    a.run("delete pod p --force --grace-period=0")?;
    let gone = |token: &str| {
        eventually("the token is refused", Duration::from_secs(30), || {
            let answer = who(token)?;
            ensure!(answer.0 == 401, "{answer:?}");
            Ok(())
        })
    };
    gone(&bound)?;
    a.feed("create", &pod("p", "", "bot", ""))?;
    ensure!(who(&bound)? == refused, "the token of a deleted pod was replayed");

    // A token of a Secret: filled by the controller, good while the Secret is there.
    a.feed(
        "create",
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata: {name: old, annotations: \
         {kubernetes.io/service-account.name: bot}}\n",
    )?;
    let encoded = eventually("the token", Duration::from_secs(20), || {
        let text = a.field("secret old", ".data.token")?;
        ensure!(!text.is_empty(), "none yet");
        Ok(text)
    })?;
    ensure!(!a.field("secret old", ".data.ca\\.crt")?.is_empty(), "no CA");
    std::fs::write(plane.path("token.b64"), encoded + "\n")?;
    crate::authority::openssl(
        plane.dir.path(),
        &["base64", "-d", "-A", "-in", "token.b64", "-out", "token"],
    )?;
    let old = std::fs::read_to_string(plane.path("token"))?;
    ensure!(who(&old)? == bot, "{:?}", who(&old)?);
    a.run("delete secret old")?;
    gone(&old)?;

    // All tokens end with their account; a new one of the same name does not revive them.
    a.run("delete serviceaccount bot")?;
    gone(&plain)?;
    a.run("create serviceaccount bot")?;
    ensure!(who(&plain)? == refused, "the token of a deleted account was replayed");
    // A token is not honoured with one byte changed.
    let fresh = a.run("create token bot")?;
    let mut forged = fresh.trim().to_owned();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.insert(forged.len() / 2, last);
    ensure!(who(&forged)? == refused, "a forged token was honoured");
    Ok(())
}

/// A node gets what its pods need, and nothing more.
pub fn nodes() -> Result<()> {
    let plane = ControlPlane::start(&[], &["--controllers=serviceaccount-controller"])?;
    let kubectl = plane.kubectl();
    kubectl.run("create namespace a")?;
    let a = kubectl.within("a");
    for node in ["n1", "n2"] {
        a.run(&format!("create serviceaccount of-{node}"))?;
        a.run(&format!("create secret generic {node} --from-literal=k={node}"))?;
        a.feed("create", &pod(&format!("on-{node}"), node, &format!("of-{node}"), node))?;
    }
    let pair = plane.ca.client("n1", "/O=system:nodes/CN=system:node:n1")?;
    let n1 = plane.kubeconfig("n1", &pair)?.within("a");
    eventually("the node reads its pod's secret", Duration::from_secs(10), || n1.run("get secret n1"))?;
    for (line, why) in [
        ("get secret n2", "no relationship found between node 'n1' and this object"),
        ("get secrets", "No Object name found"),
        ("get secrets -A", "cannot list resource \"secrets\""),
        ("get pod on-n2", "no relationship found"),
        ("get pods", "can only list/watch pods with spec.nodeName field selector"),
        ("create token of-n2", "no relationship found"),
        ("create token of-n1", "not bound to a pod"),
        ("create token of-n1 --bound-object-kind Pod --bound-object-name on-n2", ""),
        ("get --raw /api/v1/namespaces/a/secrets/n2/../n1", ""),
        ("label node n2 a=b", ""),
        ("delete pod on-n2", ""),
        (
            "create clusterrolebinding x --clusterrole=cluster-admin --user=system:node:n1",
            "cannot create resource",
        ),
        ("get secret n1 --as=admin", "cannot impersonate resource \"users\""),
    ] {
        let refused = n1.refused(line)?;
        ensure!(refused.contains(why), "{line}: {refused}");
    }
    let bound = "create token of-n1 --bound-object-kind Pod --bound-object-name on-n1 --bound-object-uid";
    let uid = a.field("pod on-n1", ".metadata.uid")?;
    n1.run(&format!("{bound} {uid}"))?;
    n1.run("get pods --field-selector spec.nodeName=n1")?;
    // Deleted, the pod takes the node's right with it.
    a.run("delete pod on-n1 --force --grace-period=0")?;
    eventually("the right ends with the pod", Duration::from_secs(10), || n1.refused("get secret n1"))?;
    Ok(())
}

/// A namespace's admin asks for another namespace's secret under every spelling.
pub fn traversal() -> Result<()> {
    let plane = ControlPlane::start(&[], &[])?;
    let kubectl = plane.kubectl();
    kubectl.run("create namespace a")?;
    kubectl.within("kube-system").run("create secret generic hidden --from-literal=k=v")?;
    kubectl.within("a").run("create rolebinding admin --clusterrole=admin --user=jane")?;
    let pair = plane.ca.client("jane", "/CN=jane")?;
    eventually("jane is an admin", Duration::from_secs(10), || {
        let (code, text) = plane.curl(&pair, "/api/v1/namespaces/a/secrets")?;
        ensure!(code == 200, "{code} {text}");
        Ok(())
    })?;
    for target in [
        "/api/v1/namespaces/kube-system/secrets/hidden",
        "/api/v1/namespaces/a/../kube-system/secrets/hidden",
        "/api/v1/namespaces/a/secrets/../../kube-system/secrets/hidden",
        "/api/v1/namespaces/a/secrets/..%2f..%2fkube-system%2fsecrets%2fhidden",
        "/api/v1/namespaces/a/secrets/%2e%2e/%2e%2e/kube-system/secrets/hidden",
        "/api/v1/namespaces/a%2f..%2fkube-system/secrets/hidden",
        "/api/v1/namespaces/%2e%2e/namespaces/kube-system/secrets/hidden",
        "//api/v1/namespaces/kube-system/secrets/hidden",
        "/api/v1/namespaces/a/secrets/hidden?namespace=kube-system",
        "/api/v1/namespaces/a/secrets?fieldSelector=metadata.namespace=kube-system",
        "/api/v1/watch/namespaces/kube-system/secrets/hidden?timeoutSeconds=1",
        "/api/v1/namespaces/a/secrets/hidden%00",
        "/api/v1/namespaces/a/secrets/a%0d%0aX-Evil:%201",
        "/api/v1/secrets?fieldSelector=metadata.namespace%3Da",
        "/registry/secrets/kube-system/hidden",
    ] {
        let (code, text) = plane.curl(&pair, target)?;
        ensure!(!text.contains("\"hidden\"") || code >= 400, "{target} gives {code} {text}");
        ensure!(code != 500 && !text.contains("dg=="), "{target} gives {code} {text}");
    }
    // Neither do names that would climb in storage come to be.
    for name in ["..", ".", "a/b", "%2e%2e", "../x"] {
        let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let arguments = [
            "--cert",
            pair.certificate(),
            "--key",
            pair.key(),
            "-H",
            "Content-Type: application/json",
            "-d",
            &body,
        ];
        let (code, text) = plane.curl_with(&arguments, "/api/v1/namespaces/a/configmaps")?;
        ensure!(code == 422, "{name}: {code} {text}");
    }
    // Headers with line ends never reach us; a header of a proxy that nobody trusts says nothing.
    let got =
        plane.who(&["--cert", pair.certificate(), "--key", pair.key(), "-H", "X-Remote-User: admin"])?;
    ensure!(got == (201, "jane".into()), "{got:?}");
    Ok(())
}

/// Who may act as whom, and what headers cannot do.
pub fn impersonation() -> Result<()> {
    let plane = ControlPlane::start(&[], &[])?;
    let kubectl = plane.kubectl();
    let jane = plane.ca.client("jane", "/CN=jane")?;
    let admin = plane.pair("admin");
    let arguments = |pair: &Pair, headers: &[&str]| -> Vec<String> {
        let mut all: Vec<String> =
            ["--cert", pair.certificate(), "--key", pair.key()].iter().map(|a| (*a).to_owned()).collect();
        all.extend(headers.iter().flat_map(|h| ["-H".to_owned(), (*h).to_owned()]));
        all
    };
    let who = |headers: &[&str]| {
        let all = arguments(&admin, headers);
        plane.who(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ask = |pair: &Pair, headers: &[&str], target: &str| {
        let all = arguments(pair, headers);
        plane.curl_with(&all.iter().map(String::as_str).collect::<Vec<_>>(), target)
    };
    // Who may do all may be anybody; of several headers for one name the first counts, as upstream has it.
    for (headers, want) in [
        (&["Impersonate-User: bob"][..], (201, "bob")),
        (&["Impersonate-User: jörg"], (201, "jörg")),
        (&["Impersonate-User: bob", "Impersonate-User: system:masters"], (201, "bob")),
        (&["Impersonate-User: bob,admin"], (201, "bob,admin")),
        (
            &["Impersonate-User: bob%0d%0aImpersonate-Group:%20system:masters"],
            (201, "bob%0d%0aImpersonate-Group:%20system:masters"),
        ),
        (&["Impersonate-Group: system:masters"], (500, "")),
        (&["Impersonate-Uid: 1"], (500, "")),
        (&["Impersonate-Extra-scopes: a"], (500, "")),
    ] {
        let got = who(headers)?;
        ensure!(got == (want.0, want.1.to_owned()), "{headers:?}: {got:?}");
    }
    // A name that is no ASCII makes somebody of its sender: one may not do what the sender may.
    let got = ask(&admin, &["Impersonate-User: jörg"], "/api/v1/secrets")?;
    ensure!(got.0 == 403 && got.1.contains("jörg"), "{got:?}");

    // Who may act as one user in one group may not take another user, another group, a uid or more.
    kubectl.run("create clusterrole as-bob --verb=impersonate --resource=users --resource-name=bob")?;
    kubectl.run("create clusterrole as-devs --verb=impersonate --resource=groups --resource-name=devs")?;
    kubectl.run("create clusterrolebinding as-bob --clusterrole=as-bob --user=jane")?;
    kubectl.run("create clusterrolebinding as-devs --clusterrole=as-devs --user=jane")?;
    kubectl.run("create clusterrolebinding devs --clusterrole=view --group=devs")?;
    let pods = "/api/v1/pods";
    eventually("jane may act as bob", Duration::from_secs(30), || {
        let got = ask(&jane, &["Impersonate-User: bob", "Impersonate-Group: devs"], pods)?;
        ensure!(got.0 == 200, "{got:?}");
        Ok(())
    })?;
    let no = |resource: &str| format!("cannot impersonate resource \\\"{resource}\\\"");
    let herself = "User \\\"jane\\\" cannot list".to_owned();
    let bob = "Impersonate-User: bob";
    for (headers, why) in [
        (&["Impersonate-User: admin"][..], no("users")),
        (&["Impersonate-User: BOB"], no("users")),
        (&[bob, "Impersonate-Group: system:masters"], no("groups")),
        (&[bob, "Impersonate-Group: devs", "Impersonate-Group: system:masters"], no("groups")),
        (&[bob, "Impersonate-Group: devs,system:masters"], no("groups")),
        (&[bob, "Impersonate-Uid: 1"], no("uids")),
        (&[bob, "Impersonate-Extra-scopes: a"], no("userextras/scopes")),
        (&["Impersonate-User: system:serviceaccount:kube-system:x"], no("serviceaccounts")),
        // Headers of proxies, and of servers that are none of ours, mean nothing.
        (&["X-Remote-User: admin", "X-Remote-Group: system:masters"], herself.clone()),
        (&["X-Forwarded-User: admin", "X-Forwarded-Groups: system:masters"], herself),
    ] {
        let got = ask(&jane, headers, pods)?;
        ensure!(got.0 == 403 && got.1.contains(&why), "{headers:?}: {got:?}, want {why}");
    }
    Ok(())
}
