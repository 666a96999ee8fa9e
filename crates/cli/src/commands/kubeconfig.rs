//! `cox kubeconfig`: the admin kubeconfig.
use std::process::ExitCode;

use serde_json::json;

use crate::args::Kubeconfig;
use crate::cluster::Cluster;
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};

/// Prints the kubeconfig or its path.
pub fn kubeconfig(options: &Kubeconfig, as_json: bool) -> Result<ExitCode, Failure> {
    let path = match HostsCluster::kept(&options.which)? {
        Some(cluster) => cluster.admin_kubeconfig(),
        None => Cluster::kept(&options.which)?.admin_kubeconfig(),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", path.display()), "run `cox up` to write it again")
    })?;
    let text = match &options.server {
        Some(server) => at(&text, server).ok_or_else(|| {
            Failure::new(format!("{} is no kubeconfig", path.display()), "run `cox up` to write it again")
        })?,
        None => text,
    };
    match (as_json, options.path) {
        (true, true) => output::print_json(&json!({ "path": path }))?,
        (true, false) => output::print_json(&json!({ "path": path, "kubeconfig": text }))?,
        (false, true) => output::print(&format!("{}\n", path.display()))?,
        (false, false) => output::print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The same for another server.
fn at(kubeconfig: &str, server: &str) -> Option<String> {
    let mut file: serde_json::Value = serde_saphyr::from_str(kubeconfig).ok()?;
    for entry in file.get_mut("clusters")?.as_array_mut()? {
        entry["cluster"]["server"] = json!(server);
    }
    Some(pki::kubeconfig_yaml(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_and_nothing_else() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: 'https://a:1', certificate-authority-data: QUJD}\n\
                    users:\n- name: u\n  user: {token: x}\n";
        let changed = at(text, "https://b:2").unwrap();
        let value = |text: &str| -> serde_json::Value { serde_saphyr::from_str(text).unwrap() };
        let mut want = value(text);
        want["clusters"][0]["cluster"]["server"] = json!("https://b:2");
        assert_eq!(value(&changed), want);
        assert_eq!(at("[]", "https://b:2"), None);
    }
}
