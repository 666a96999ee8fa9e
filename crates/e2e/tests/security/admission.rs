//! Plugins of admission, switched by flags and told by a file.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Kubectl, eventually};

use crate::authorization::refused;
use crate::control_plane::ControlPlane;

const CONFIG: &str = r"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  path: rates.yaml
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, warn: restricted}
    exemptions: {namespaces: [kube-system]}
";

const RATES: &str = r"
apiVersion: eventratelimit.admission.k8s.io/v1alpha1
kind: Configuration
limits:
- {type: Namespace, qps: 1, burst: 5, cacheSize: 10}
";

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  serviceAccountName: default\n  containers: [{{name: c, \
         image: 'x:1'{more}}}]\n"
    )
}

fn told(kubectl: &Kubectl, yaml: &str) -> Result<(Option<i32>, String)> {
    let answer = kubectl.answer(&["create", "-f", "-"], Some(yaml))?;
    Ok((answer.code, answer.err))
}

/// Flags and files.
pub fn plugins() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    std::fs::write(dir.path().join("admission.yaml"), CONFIG)?;
    std::fs::write(dir.path().join("rates.yaml"), RATES)?;
    let file = dir.path().join("admission.yaml").display().to_string();
    let flags = [
        "--enable-admission-plugins=NodeRestriction,AlwaysPullImages,DenyServiceExternalIPs,EventRateLimit",
        "--disable-admission-plugins=DefaultTolerationSeconds",
        "--admission-control-config-file",
        &file,
    ];
    let plane = ControlPlane::start_in(dir, &flags, &["--controllers=serviceaccount-controller"])?;
    let kubectl = plane.kubectl();
    let default = kubectl.within("default");
    eventually("the account is there", Duration::from_secs(30), || {
        default.run("get serviceaccount default")
    })?;

    // On by name: images are always pulled. Off by name: nobody adds tolerations. By default: a priority is filled in.
    let (code, warned) = told(&default, &pod("plain", ""))?;
    ensure!(code == Some(0), "{warned}");
    ensure!(warned.contains("would violate PodSecurity \"restricted:latest\""), "{warned}");
    let shown = default.run("get pod plain -o jsonpath={.spec.containers[0].imagePullPolicy},{.spec.tolerations},{.spec.priority}")?;
    ensure!(shown == "Always,,0", "{shown}");

    // The file: what labels do not say is baseline, and one namespace is exempt.
    let privileged = pod("p", ", securityContext: {privileged: true}");
    let (_, refusal) = told(&default, &privileged)?;
    ensure!(
        refusal.contains("violates PodSecurity \"baseline:latest\": privileged (container \"c\""),
        "{refusal}"
    );
    let system = kubectl.within("kube-system");
    eventually("the account is there", Duration::from_secs(30), || system.run("get serviceaccount default"))?;
    let (code, text) = told(&system, &privileged)?;
    ensure!(code == Some(0) && !text.contains("would violate"), "{text}");
    let label = "label namespace default pod-security.kubernetes.io/enforce";
    let refusal = kubectl.refused(&format!("{label}=high"))?;
    ensure!(refusal.contains("must be one of privileged, baseline, restricted"), "{refusal}");
    let answer = kubectl.answer(&format!("{label}=restricted").split(' ').collect::<Vec<_>>(), None)?;
    ensure!(
        answer
            .err
            .contains("existing pods in namespace \"default\" violate the new PodSecurity enforce level")
            && answer.err.contains("plain: allowPrivilegeEscalation != false"),
        "{}",
        answer.err
    );

    // Nobody catches traffic for addresses that are not theirs; what is there may stay.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}], externalIPs: [1.2.3.4]}\n";
    let (_, refusal) = told(&default, service)?;
    ensure!(refusal.contains("Use of external IPs is denied by admission control"), "{refusal}");

    // Events beyond the burst are too many; other namespaces have their own.
    let event = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Event\nmetadata: {{name: {name}}}\ninvolvedObject: {{kind: Pod, name: p, namespace: \
             default}}\nreason: Test\nmessage: m\ntype: Normal\nsource: {{component: test}}\n"
        )
    };
    let burst = (0..20).map(|i| event(&format!("e{i}"))).collect::<Vec<_>>().join("---\n");
    let (_, refusal) = told(&default, &burst)?;
    ensure!(refusal.contains("limit reached on type Namespace for key default"), "{refusal}");
    let made = default.run("get events -o name")?.lines().count();
    ensure!((5..20).contains(&made), "{made} events");
    drop(plane);

    for (flags, want) in [
        (&["--enable-admission-plugins=SecurityContextDeny"][..], "is unknown: Kubernetes 1.30 removed it"),
        (&["--disable-admission-plugins=Made"], "disable-admission-plugins plugin \"Made\" is unknown"),
        (
            &["--admission-control=NamespaceLifecycle,PodSecurityPolicy"],
            "what does its work now is PodSecurity",
        ),
        (&["--admission-control-config-file=/nonexistent"], "failed to read plugin config: /nonexistent"),
    ] {
        refused(flags, want)?;
    }
    Ok(())
}
