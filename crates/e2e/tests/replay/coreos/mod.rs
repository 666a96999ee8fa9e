//! Guide 003: one master made of static pods, the proxy among them, and a worker. Flannel and Calico, whose images are not
//! there to be had, are what the other guides' CNI files and routes are; rkt and fleet are no more.
mod files;

use anyhow::{Result, ensure};

use crate::changes::{Change, changed, refused};
use crate::hosts::{Host, Network};
use crate::images::{HYPERKUBE, Images, PAUSE};
use crate::nodes;

const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig";
const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Follows the guide.
pub fn replay() -> Result<()> {
    let network = Network::new("c")?;
    let images = Images::new(network.dir());
    let hosts = network.boot(&[("coreos1", "192.168.24.11"), ("coreos2", "192.168.24.12")])?;
    let done = prepare(&hosts, &images).and_then(|()| master(&hosts[0])).and_then(|()| worker(&hosts));
    done.map_err(|e| {
        let tails = "for f in /var/log/pods/*/*/*.log; do echo \"--- $f\"; tail -n 12 $f; done";
        let pods: String = hosts.iter().map(|h| h.sh(tails).unwrap_or_default()).collect();
        let logs: String = hosts.iter().map(Host::journals).collect();
        e.context(format!("{pods}{logs}"))
    })
}

fn prepare(hosts: &[Host], images: &Images) -> Result<()> {
    let first = &hosts[0];
    first.sh(&format!(
        "export K8S_SERVICE_IP=10.3.0.1 MASTER_HOST={}\n{{ {} }} >/dev/null 2>&1",
        first.address,
        files::CERTIFICATES
    ))?;
    for (i, host) in hosts.iter().enumerate() {
        let asset = |file: &str| format!("/opt/k8s_tls_assets/{file}");
        let ssl = ["ca.pem", "apiserver-key.pem", "apiserver.pem"].map(asset);
        let ssl: Vec<&str> = ssl.iter().map(String::as_str).take(if i == 0 { 3 } else { 1 }).collect();
        first.scp(&ssl, host, "/etc/kubernetes/ssl")?;
        first.scp(&[&asset("admin.kubeconfig"), &asset("parts.kubeconfig")], host, "/etc/kubernetes")?;
        let own = first.read(&asset(&format!("{}-worker.kubeconfig", host.name)))?;
        host.write("/etc/kubernetes/kubelet.kubeconfig", &own)?;
        host.sh("chmod 600 /etc/kubernetes/*.kubeconfig; mkdir -p /etc/kubernetes/manifests")?;
        host.sh(&format!("NAME={} IP={}\n{}", host.name, host.address, files::ETCD))?;
        nodes::start_containerd(host)?;
        images.import(host, &[PAUSE, HYPERKUBE])?;
        nodes::write_network(host, &format!("10.2.{i}.0/24"))?;
    }
    Ok(())
}

fn place(host: &Host, file: &str, text: &str, changes: &[Change]) -> Result<()> {
    host.write(&format!("{MANIFESTS}/{file}.yaml"), &changed(text, changes)?)
}

fn master(first: &Host) -> Result<()> {
    let kubelet = changed(files::KUBELET, &[files::WRAPPER])?;
    let variables = format!("export HOST_IP={}\n", first.address);
    refused(first, "kubelet", &format!("{variables}{kubelet}"), files::KUBELET_CHANGES)?;
    place(first, "kube-apiserver", files::API_SERVER, files::API_SERVER_CHANGES)?;
    place(first, "kube-proxy", files::PROXY, files::PROXY_CHANGES)?;
    place(first, "kube-controller-manager", files::CONTROLLER_MANAGER, files::CONTROLLER_MANAGER_CHANGES)?;
    place(first, "kube-scheduler", files::SCHEDULER, files::SCHEDULER_CHANGES)?;
    first.sh(&format!("{variables}{}", changed(&kubelet, files::KUBELET_CHANGES)?))?;
    first.sh("sudo systemctl daemon-reload; sudo systemctl start kubelet; sudo systemctl enable kubelet")?;
    let version = "curl -s --cacert /etc/kubernetes/ssl/ca.pem --cert /opt/k8s_tls_assets/admin.pem \
                   --key /opt/k8s_tls_assets/admin-key.pem https://192.168.24.11/version";
    first.until("the API server answers", version, |text| text.contains("\"gitVersion\": \"v1.36."))?;
    let running = |table: &str| {
        ["kube-apiserver", "kube-proxy", "kube-controller-manager", "kube-scheduler"].iter().all(|pod| {
            table.lines().any(|l| l.starts_with(&format!("{pod}-192.168.24.11 ")) && l.contains("1/1"))
        })
    };
    first.until("all pods run", &format!("{KUBECTL} -n kube-system get pods"), running)?;
    first.until("the node is ready", &format!("{KUBECTL} get node 192.168.24.11"), |line| {
        line.contains(" Ready ")
    })?;
    // A certificate that no part can use is named as what it is.
    let old = first.answer("kube-scheduler --kubeconfig=/etc/kubernetes/admin.kubeconfig --secure-port=0")?;
    ensure!(old.code != Some(0) && old.err.contains("X.509 version 1"), "{}", old.err);
    // The guide makes its namespaces by hand; one of them is there by itself now.
    first.sh(&format!("{KUBECTL} create namespace calico-system"))?;
    // What is privileged is so because the flag allows it.
    let status = first.sh("systemctl status kubelet.service")?;
    ensure!(status.contains("active (running)"), "{status}");
    Ok(())
}

fn worker(hosts: &[Host]) -> Result<()> {
    let (first, second) = (&hosts[0], &hosts[1]);
    place(second, "kube-proxy", files::PROXY, files::PROXY_CHANGES)?;
    let kubelet = changed(&changed(files::KUBELET, &[files::WRAPPER])?, files::KUBELET_CHANGES)?;
    // On workers the guide's own sources leave out what keeps pods away.
    let kubelet =
        kubelet.replace("  --register-with-taints=node-role.kubernetes.io/master=:NoSchedule \\\n", "");
    second.sh(&format!("export HOST_IP={}\n{kubelet}\nsystemctl start kubelet", second.address))?;
    first.until("the worker is ready", &format!("{KUBECTL} get node 192.168.24.12"), |line| {
        line.contains(" Ready ")
    })?;
    // The API server by its Service, on a host whose proxy is a pod.
    for host in hosts {
        let service = "curl -sk -o /dev/null -w '%{http_code}' https://10.3.0.1/version";
        host.until("the kubernetes Service", service, |code| code == "401")?;
    }
    first.sh(&format!(
        "{KUBECTL} create deployment web --image={HYPERKUBE} --replicas=2 -- /hyperkube hello"
    ))?;
    first.sh(&format!("{KUBECTL} expose deployment web --port=80 --target-port=8080"))?;
    let there = format!("{KUBECTL} get pods -l app=web -o wide --no-headers");
    first.until("pods run on the worker", &there, |table| {
        table.lines().filter(|l| l.contains("Running") && l.contains("192.168.24.12")).count() == 2
    })?;
    first.sh(&format!("ip route replace 10.2.1.0/24 via {}", second.address))?;
    let address = first.sh(&format!("{KUBECTL} get service web -o jsonpath={{.spec.clusterIP}}"))?;
    for host in hosts {
        host.until("the Service", &format!("curl -s -m 5 http://{address}/"), |page| {
            page.contains("hello from pod web-")
        })?;
    }
    Ok(())
}
