//! What leads clients to an API server that lives: ours on every node, or nginx or haproxy.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use super::build::Building;
use super::trust::TrustError;
use super::{PlannedService, Ready, Stage};
use crate::spec::{ClusterSpec, Host, LoadBalancer, Role};

/// The service of our balancer.
pub(super) const NAME: &str = "cox-balancer";

/// The API servers, by host.
fn backends(spec: &ClusterSpec) -> impl Iterator<Item = (&Host, SocketAddr)> {
    spec.hosts_with(Role::ControlPlane).map(|h| (h, SocketAddr::new(h.address, spec.api_server.port)))
}

/// The configuration of an nginx in front of the API servers. It ends no TLS, and finds out that a server is gone when
/// it cannot connect to it.
pub fn nginx_config(spec: &ClusterSpec) -> String {
    let mut servers = String::new();
    for (host, address) in backends(spec) {
        // Writing to a string cannot fail.
        let _ = writeln!(servers, "        server {address} max_fails=1 fail_timeout=5s; # {}", host.name);
    }
    let port = spec.api_server.port;
    format!(
        "# Leads clients to the API servers of cluster {}. Written by cox.\n\
         user www-data;\n\
         worker_processes auto;\n\
         pid /run/nginx.pid;\n\
         include /etc/nginx/modules-enabled/*.conf;\n\
         \n\
         events {{\n    worker_connections 8192;\n}}\n\
         \n\
         stream {{\n\
         \x20   upstream kube_apiserver {{\n        least_conn;\n{servers}    }}\n\
         \x20   server {{\n\
         \x20       listen {port};\n\
         \x20       proxy_pass kube_apiserver;\n\
         \x20       proxy_connect_timeout 2s;\n\
         \x20       # Watches are silent for long.\n\
         \x20       proxy_timeout 24h;\n\
         \x20   }}\n}}\n",
        spec.name
    )
}

/// The configuration of a haproxy in front of the API servers. It asks each of them whether it is ready, and cuts the
/// connections of one that is not, so that its clients go elsewhere at once.
pub fn haproxy_config(spec: &ClusterSpec, authority: &Path) -> String {
    let mut servers = String::new();
    for (host, address) in backends(spec) {
        let _ = writeln!(servers, "    server {} {address}", host.name);
    }
    let authority = authority.display();
    let port = spec.api_server.port;
    format!(
        "# Leads clients to the API servers of cluster {}. Written by cox.\n\
         global\n    maxconn 8192\n    log stdout format raw local0 notice\n\
         \n\
         defaults\n\
         \x20   mode tcp\n\
         \x20   log global\n\
         \x20   timeout connect 2s\n\
         \x20   timeout check 2s\n\
         \x20   # Watches are silent for long.\n\
         \x20   timeout client 24h\n\
         \x20   timeout server 24h\n\
         \x20   option redispatch 1\n\
         \x20   retries 2\n\
         \n\
         frontend kube-apiserver\n    bind :{port}\n    default_backend kube-apiserver\n\
         \n\
         backend kube-apiserver\n\
         \x20   balance leastconn\n\
         \x20   option httpchk GET /readyz\n\
         \x20   http-check expect status 200\n\
         \x20   default-server check check-ssl verify required ca-file {authority} inter 1s fall 2 rise 1 \
         on-marked-down shutdown-sessions\n\
         {servers}",
        spec.name
    )
}

pub(super) fn add(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, host) = (building.spec, building.host);
    let (kind, dedicated) = (spec.api_server.load_balancer, host.is(Role::LoadBalancer));
    match kind {
        LoadBalancer::Ours if dedicated => {
            ours(building, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), spec.api_server.port))
        }
        LoadBalancer::Ours if host.is(Role::Worker) => {
            ours(building, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), spec.api_server.balancer_port))
        }
        LoadBalancer::Nginx if dedicated => {
            nginx(building);
            Ok(())
        }
        LoadBalancer::Haproxy if dedicated => haproxy(building),
        _ => Ok(()),
    }
}

fn ours(building: &mut Building<'_>, listen: SocketAddr) -> Result<(), TrustError> {
    building.authority()?;
    let (spec, paths) = (building.spec, &building.options.paths);
    let mut exec = vec![
        paths.program("cox").display().to_string(),
        "balancer".to_owned(),
        format!("--listen={listen}"),
        format!("--certificate-authority={}", paths.pki("ca.crt").display()),
    ];
    exec.extend(backends(spec).map(|(_, address)| format!("--backend={address}")));
    let mut service =
        PlannedService::new(NAME, "Balancer in front of the API servers", Stage::Balancer, exec);
    service.ready = Ready::Tcp { address: reached(listen.ip()), port: listen.port() };
    service.open_files = Some(65_536);
    building.service(service);
    Ok(())
}

/// Where what listens everywhere is asked.
fn reached(listen: IpAddr) -> IpAddr {
    if listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen }
}

fn nginx(building: &mut Building<'_>) {
    let (spec, paths) = (building.spec, &building.options.paths);
    building.package("nginx");
    building.package("libnginx-mod-stream");
    building.text(&paths.nginx_config, 0o644, nginx_config(spec));
    let exec = vec![
        paths.programs.nginx.display().to_string(),
        "-c".to_owned(),
        paths.nginx_config.display().to_string(),
        "-g".to_owned(),
        "daemon off;".to_owned(),
    ];
    let mut service =
        PlannedService::new("nginx", "nginx in front of the API servers", Stage::Balancer, exec);
    service.reads = vec![paths.nginx_config.clone()];
    service.ready = Ready::Tcp { address: Ipv4Addr::LOCALHOST.into(), port: spec.api_server.port };
    service.open_files = Some(65_536);
    building.service(service);
}

fn haproxy(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, paths, trust) = (building.spec, &building.options.paths, building.trust);
    building.package("haproxy");
    let authority = paths.haproxy_authority();
    building.file(&authority, 0o644, trust.content(&trust.pki().authority().certificate)?);
    building.text(&paths.haproxy_config, 0o644, haproxy_config(spec, &authority));
    let exec = vec![
        paths.programs.haproxy.display().to_string(),
        "-W".to_owned(),
        "-db".to_owned(),
        "-f".to_owned(),
        paths.haproxy_config.display().to_string(),
    ];
    let mut service =
        PlannedService::new("haproxy", "haproxy in front of the API servers", Stage::Balancer, exec);
    service.reads = vec![paths.haproxy_config.clone(), authority];
    service.ready = Ready::Tcp { address: Ipv4Addr::LOCALHOST.into(), port: spec.api_server.port };
    service.open_files = Some(65_536);
    building.service(service);
    Ok(())
}
