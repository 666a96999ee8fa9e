//! CertificateSigningRequests, decided by `kubectl certificate` and signed by the controllers.
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Kubectl, eventually};

use crate::authority::openssl;
use crate::control_plane::ControlPlane;

/// A request made by openssl, as base64.
fn request(dir: &Path, file: &str, subject: &str, names: &str) -> Result<String> {
    let (key, csr) = (format!("{file}.key"), format!("{file}.csr"));
    let line = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    let mut arguments: Vec<&str> = line.split(' ').collect();
    arguments.extend([key.as_str(), "-out", &csr, "-subj", subject]);
    let extension = format!("subjectAltName={names}");
    if !names.is_empty() {
        arguments.extend(["-addext", extension.as_str()]);
    }
    openssl(dir, &arguments)?;
    openssl(dir, &["base64", "-A", "-in", &csr])
}

struct Csr<'a> {
    name: &'a str,
    signer: &'a str,
    usages: &'a str,
    more: &'a str,
}

impl Csr<'_> {
    fn yaml(&self, request: &str) -> String {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {}}}\nspec:\n  request: \
             {}\n  signerName: {}\n  usages: [{}]\n{}",
            self.name,
            request.trim(),
            self.signer,
            self.usages,
            self.more
        )
    }
}

/// The certificate of a request, once it is there, as text of openssl.
fn issued(plane: &ControlPlane, kubectl: &Kubectl, name: &str) -> Result<String> {
    let pem = eventually("a certificate", Duration::from_secs(20), || {
        let text = kubectl.field(&format!("csr {name}"), ".status.certificate")?;
        ensure!(!text.is_empty(), "none yet");
        Ok(text)
    })?;
    std::fs::write(plane.path("issued.b64"), pem + "\n")?;
    openssl(plane.dir.path(), &["base64", "-d", "-A", "-in", "issued.b64", "-out", &format!("{name}.pem")])?;
    let file = format!("{name}.pem");
    let ca = plane.ca.certificate().display().to_string();
    openssl(plane.dir.path(), &["verify", "-CAfile", &ca, &file])?;
    openssl(plane.dir.path(), &["x509", "-in", &file, "-noout", "-text", "-nameopt", "RFC2253"])
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

/// Approval, denial, signing, failure, for each signer.
pub fn signers() -> Result<()> {
    let plane = ControlPlane::start(&[], &["--cluster-signing-duration=24h"])?;
    let kubectl = plane.kubectl();
    let dir = plane.dir.path();

    let jane =
        Csr { name: "jane", signer: CLIENT, usages: "client auth", more: "  expirationSeconds: 3600\n" };
    kubectl.feed("create", &jane.yaml(&request(dir, "jane", "/O=devs/CN=jane", "")?))?;
    let shown = kubectl.run("get csr jane")?;
    ensure!(shown.contains("Pending") && shown.contains(CLIENT), "{shown}");
    kubectl.run("certificate approve jane")?;
    let text = issued(&plane, &kubectl, "jane")?;
    ensure!(text.contains("TLS Web Client Authentication") && text.contains("CN=jane,O=devs"), "{text}");
    ensure!(!text.contains("TLS Web Server"), "{text}");
    let shown = kubectl.run("get csr jane")?;
    ensure!(shown.contains("Approved,Issued"), "{shown}");
    let pair = crate::authority::Pair { certificate: plane.path("jane.pem"), key: plane.path("jane.key") };
    let who = plane.who(&["--cert", pair.certificate(), "--key", pair.key()])?;
    ensure!(who == (201, "jane".into()), "{who:?}");

    let mut denied = Csr { name: "denied", more: "", ..jane };
    kubectl.feed("create", &denied.yaml(&request(dir, "denied", "/CN=joe", "")?))?;
    kubectl.run("certificate deny denied")?;
    let refused = kubectl.refused("certificate approve denied --force")?;
    ensure!(refused.contains("mutually exclusive") || refused.contains("Denied"), "{refused}");
    ensure!(kubectl.field("csr denied", ".status.certificate")?.is_empty(), "a denied request was signed");

    // What the signer does not permit fails, in upstream's words.
    for (name, signer, usages, subject, names, why) in [
        ("usage", CLIENT, "server auth", "/CN=x", "", "invalid usage for client certificate: server auth"),
        (
            "groups",
            KUBELET,
            "client auth, digital signature",
            "/O=system:masters/CN=system:node:x",
            "",
            "subject organization is not system:nodes",
        ),
        (
            "san",
            KUBELET,
            "client auth, digital signature",
            "/O=system:nodes/CN=system:node:x",
            "DNS:x",
            "DNS subjectAltNames are not allowed",
        ),
        (
            "nosan",
            SERVING,
            "server auth, digital signature",
            "/O=system:nodes/CN=system:node:x",
            "",
            "DNS or IP subjectAltName is required",
        ),
    ] {
        denied = Csr { name, signer, usages, more: "" };
        kubectl.feed("create", &denied.yaml(&request(dir, name, subject, names)?))?;
        kubectl.run(&format!("certificate approve {name}"))?;
        let condition = ".status.conditions[?(@.type==\"Failed\")]";
        eventually("the request fails", Duration::from_secs(20), || {
            let reason = kubectl.field(&format!("csr {name}"), &format!("{condition}.reason"))?;
            let message = kubectl.field(&format!("csr {name}"), &format!("{condition}.message"))?;
            ensure!(
                (reason.as_str(), message.as_str()) == ("SignerValidationFailure", why),
                "{reason} {message}"
            );
            Ok(())
        })?;
    }
    let serving =
        Csr { name: "serving", signer: SERVING, usages: "server auth, digital signature", more: "" };
    let csr = request(dir, "serving", "/O=system:nodes/CN=system:node:x", "DNS:x,IP:10.0.0.1")?;
    kubectl.feed("create", &serving.yaml(&csr))?;
    kubectl.run("certificate approve serving")?;
    let text = issued(&plane, &kubectl, "serving")?;
    ensure!(text.contains("DNS:x, IP Address:10.0.0.1") && text.contains("TLS Web Server"), "{text}");

    // What nobody signs here stays approved and without a certificate; what is malformed is not taken at all.
    let foreign = Csr { name: "foreign", signer: "example.com/mine", usages: "client auth", more: "" };
    kubectl.feed("create", &foreign.yaml(&csr))?;
    kubectl.run("certificate approve foreign")?;
    let wrong = |csr: &Csr<'_>, request: &str| -> Result<String> {
        let answer = kubectl.answer(&["create", "-f", "-"], Some(&csr.yaml(request)))?;
        ensure!(answer.code != Some(0), "taken: {}", answer.out);
        Ok(answer.err)
    };
    let short = Csr { name: "short", more: "  expirationSeconds: 60\n", ..jane };
    let why = wrong(&short, &csr)?;
    ensure!(why.contains("may not specify a duration less than 600 seconds"), "{why}");
    let why = wrong(&Csr { name: "broken", more: "", ..jane }, "aGVsbG8=")?;
    ensure!(why.contains("PEM block type must be CERTIFICATE REQUEST"), "{why}");
    let why = wrong(&Csr { name: "odd", usages: "flying", more: "", ..jane }, &csr)?;
    ensure!(why.contains("Unsupported value: \"flying\""), "{why}");
    let masters = request(dir, "masters", "/O=system:masters/CN=root", "")?;
    let why = wrong(&Csr { name: "masters", more: "", ..jane }, &masters)?;
    ensure!(why.contains("system:masters group is not allowed"), "{why}");
    ensure!(kubectl.field("csr foreign", ".status.certificate")?.is_empty(), "signed for a foreign signer");

    // Who may edit nodes may not approve: that takes a right on the signer.
    plane
        .kubectl()
        .run("create clusterrole approver --verb=update --resource=certificatesigningrequests/approval")?;
    plane.kubectl().run("create clusterrolebinding approver --clusterrole=approver --user=jane")?;
    plane.kubectl().run("create clusterrole reader --verb=get,list --resource=certificatesigningrequests")?;
    plane.kubectl().run("create clusterrolebinding reader --clusterrole=reader --user=jane")?;
    let pending = Csr { name: "pending", signer: CLIENT, usages: "client auth", more: "" };
    kubectl.feed("create", &pending.yaml(&request(dir, "pending", "/CN=p", "")?))?;
    let jane = plane.kubeconfig("jane", &pair)?;
    eventually("approval is refused by signer", Duration::from_secs(10), || {
        let refused = jane.refused("certificate approve pending")?;
        ensure!(refused.contains("user not permitted to approve requests with signerName"), "{refused}");
        Ok(())
    })
}

/// Who joins checks the cluster's kubeconfig by the token alone.
pub fn cluster_info() -> Result<()> {
    let plane = ControlPlane::start(&[], &["--controllers=*,bootstrapsigner"])?;
    let kubectl = plane.kubectl();
    kubectl.within("kube-public").feed(
        "create",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cluster-info, namespace: kube-public}\ndata: {kubeconfig: hello}\n",
    )?;
    let secret = "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\nmetadata: {name: \
                  bootstrap-token-abcdef, namespace: kube-system}\nstringData: {token-id: abcdef, token-secret: \
                  0123456789abcdef, usage-bootstrap-signing: 'true', usage-bootstrap-authentication: 'true'}\n";
    kubectl.within("kube-system").feed("create", secret)?;
    let within = kubectl.within("kube-public");
    let signature = eventually("the signature", Duration::from_secs(20), || {
        let text = within.field("configmap cluster-info", ".data.jws-kubeconfig-abcdef")?;
        ensure!(!text.is_empty(), "none yet");
        Ok(text)
    })?;
    // The same by openssl: HMAC-SHA256 over header and content.
    let (header, tag) = signature.split_once("..").unwrap_or_default();
    std::fs::write(plane.path("message"), format!("{header}.aGVsbG8"))?;
    let mac = openssl(
        plane.dir.path(),
        &["dgst", "-sha256", "-hmac", "0123456789abcdef", "-binary", "-out", "mac", "message"],
    );
    mac?;
    let encoded = openssl(plane.dir.path(), &["base64", "-A", "-in", "mac"])?;
    let encoded = encoded.trim().replace('+', "-").replace('/', "_").replace('=', "");
    ensure!(encoded == tag, "{encoded} is not {tag}");
    kubectl.within("kube-system").run("delete secret bootstrap-token-abcdef")?;
    eventually("the signature goes", Duration::from_secs(20), || {
        let text = within.field("configmap cluster-info", ".data")?;
        ensure!(!text.contains("jws-"), "{text}");
        Ok(())
    })
}
