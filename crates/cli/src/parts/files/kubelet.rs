//! `KubeletConfiguration`. Upstream: k8s.io/kubelet/config/v1beta1, 1.36.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kubelet::EvictionThresholds;
use machinery::Quantity;

use super::{Fields, Ignored, LOGGING, Wrong, load};
use crate::output::Failure;

/// What the kubelet takes from the file; what is absent has upstream's default.
#[derive(Debug, Default, PartialEq)]
pub struct KubeletFile {
    /// `address`.
    pub address: Option<IpAddr>,
    /// `port`.
    pub port: Option<u16>,
    /// `tlsCertFile`.
    pub tls_cert_file: Option<PathBuf>,
    /// `tlsPrivateKeyFile`.
    pub tls_private_key_file: Option<PathBuf>,
    /// `authentication.x509.clientCAFile`.
    pub client_ca_file: Option<PathBuf>,
    /// `authentication.anonymous.enabled`.
    pub anonymous: Option<bool>,
    /// `authentication.webhook.enabled`.
    pub token_webhook: Option<bool>,
    /// `authorization.mode`: whether it is `Webhook`, not `AlwaysAllow`.
    pub access_webhook: Option<bool>,
    /// `rotateCertificates`.
    pub rotate_certificates: Option<bool>,
    /// `serverTLSBootstrap`.
    pub server_tls_bootstrap: Option<bool>,
    /// `registerNode`.
    pub register_node: Option<bool>,
    /// `registerWithTaints`, as key, value and effect.
    pub taints: Vec<(String, String, String)>,
    /// `providerID`.
    pub provider_id: Option<String>,
    /// `staticPodPath`.
    pub static_pod_path: Option<PathBuf>,
    /// `podLogsDir`.
    pub pod_logs_dir: Option<PathBuf>,
    /// `containerRuntimeEndpoint`.
    pub container_runtime_endpoint: Option<String>,
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`.
    pub cluster_domain: Option<String>,
    /// `resolvConf`.
    pub resolv_conf: Option<PathBuf>,
    /// `cgroupRoot`.
    pub cgroup_root: Option<String>,
    /// `maxPods`.
    pub max_pods: Option<u32>,
    /// `nodeStatusReportFrequency`.
    pub status_report: Option<Duration>,
    /// `nodeLeaseDurationSeconds`.
    pub lease_duration: Option<Duration>,
    /// `evictionHard`.
    pub eviction: Option<EvictionThresholds>,
    /// `imageGCHighThresholdPercent`.
    pub image_gc_high: Option<u8>,
    /// `imageGCLowThresholdPercent`.
    pub image_gc_low: Option<u8>,
    /// `containerLogMaxSize`.
    pub container_log_max_size: Option<u64>,
    /// `containerLogMaxFiles`.
    pub container_log_max_files: Option<u32>,
}

const IGNORED: &Ignored = &[
    ("allowedUnsafeSysctls", "null"),
    ("attributeRestrictionsMode", "null"),
    ("authentication.webhook.cacheTTL", "\"2m0s\""),
    ("authorization.webhook.cacheAuthorizedTTL", "\"5m0s\""),
    ("authorization.webhook.cacheUnauthorizedTTL", "\"30s\""),
    ("cgroupDriver", "\"cgroupfs\""),
    ("cgroupsPerQOS", "true"),
    ("configMapAndSecretChangeDetectionStrategy", "\"Watch\""),
    ("containerLogMaxWorkers", "1"),
    ("containerLogMonitorInterval", "\"10s\""),
    ("contentType", "\"application/vnd.kubernetes.protobuf\""),
    ("cpuCFSQuota", "true"),
    ("cpuCFSQuotaPeriod", "\"100ms\""),
    ("cpuManagerPolicy", "\"none\""),
    ("cpuManagerPolicyOptions", "null"),
    ("cpuManagerReconcilePeriod", "\"10s\""),
    ("crashLoopBackOff", "null"),
    ("enableContentionProfiling", "false"),
    ("enableControllerAttachDetach", "true"),
    ("enableDebugFlagsHandler", "true"),
    ("enableDebuggingHandlers", "true"),
    ("enableProfilingHandler", "true"),
    ("enableServer", "true"),
    ("enableSystemLogHandler", "true"),
    ("enableSystemLogQuery", "false"),
    ("enforceNodeAllocatable", "[\"pods\"]"),
    ("eventBurst", "100"),
    ("eventRecordQPS", "50"),
    ("evictionMaxPodGracePeriod", "0"),
    ("evictionMinimumReclaim", "null"),
    ("evictionPressureTransitionPeriod", "\"5m0s\""),
    ("evictionSoft", "null"),
    ("evictionSoftGracePeriod", "null"),
    ("failCgroupV1", "false"),
    ("failSwapOn", "true"),
    ("featureGates", "null"),
    ("fileCheckFrequency", "\"20s\""),
    ("hairpinMode", "\"promiscuous-bridge\""),
    ("healthzBindAddress", "\"127.0.0.1\""),
    ("healthzPort", "10248"),
    ("httpCheckFrequency", "\"20s\""),
    ("imageMaximumGCAge", "null"),
    ("imageMinimumGCAge", "\"2m0s\""),
    ("imagePullCredentialsVerificationPolicy", "\"NeverVerifyPreloadedImages\""),
    ("imageServiceEndpoint", "null"),
    ("iptablesDropBit", "15"),
    ("iptablesMasqueradeBit", "14"),
    ("kernelMemcgNotification", "false"),
    ("kubeAPIBurst", "100"),
    ("kubeAPIQPS", "50"),
    ("kubeReserved", "null"),
    ("kubeReservedCgroup", "null"),
    ("kubeletCgroups", "null"),
    ("localStorageCapacityIsolation", "true"),
    ("logging", LOGGING),
    ("makeIPTablesUtilChains", "true"),
    ("maxOpenFiles", "1000000"),
    ("maxParallelImagePulls", "null"),
    ("memoryManagerPolicy", "\"None\""),
    ("memorySwap", "null"),
    ("memoryThrottlingFactor", "0.9"),
    ("mergeDefaultEvictionSettings", "false"),
    ("nodeStatusMaxImages", "50"),
    ("nodeStatusUpdateFrequency", "\"10s\""),
    ("oomScoreAdj", "-999"),
    ("podCIDR", "null"),
    ("podPidsLimit", "-1"),
    ("podsPerCore", "0"),
    ("preloadedImagesVerificationAllowlist", "null"),
    ("protectKernelDefaults", "false"),
    ("qosReserved", "null"),
    ("readOnlyPort", "0"),
    ("registryBurst", "10"),
    ("registryPullQPS", "5"),
    ("reservedMemory", "null"),
    ("reservedSystemCPUs", "null"),
    ("runOnce", "false"),
    ("runtimeRequestTimeout", "\"2m0s\""),
    ("seccompDefault", "false"),
    ("serializeImagePulls", "true"),
    ("showHiddenMetricsForVersion", "null"),
    ("shutdownGracePeriod", "null"),
    ("shutdownGracePeriodByPodPriority", "null"),
    ("shutdownGracePeriodCriticalPods", "null"),
    ("singleProcessOOMKill", "null"),
    ("staticPodURL", "null"),
    ("staticPodURLHeader", "null"),
    ("streamingConnectionIdleTimeout", "\"4h0m0s\""),
    ("syncFrequency", "\"1m0s\""),
    ("systemCgroups", "null"),
    ("systemReserved", "null"),
    ("systemReservedCgroup", "null"),
    ("tlsCipherSuites", "null"),
    ("tlsMinVersion", "null"),
    ("topologyManagerPolicy", "\"none\""),
    ("topologyManagerPolicyOptions", "null"),
    ("topologyManagerScope", "\"container\""),
    ("tracing", "null"),
    ("userNamespaces", "null"),
    ("volumePluginDir", "\"/usr/libexec/kubernetes/kubelet-plugins/volume/exec/\""),
    ("volumeStatsAggPeriod", "\"1m0s\""),
];

/// Reads the file; answers what it says, and the warnings.
pub fn read(path: &Path) -> Result<(KubeletFile, Vec<String>), Failure> {
    load(path, "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", fields, IGNORED)
}

fn fields(f: &mut Fields) -> Result<KubeletFile, Wrong> {
    let path = |f: &mut Fields, field: &str| -> Result<Option<PathBuf>, Wrong> {
        Ok(f.take::<PathBuf>(field)?.filter(|path| !path.as_os_str().is_empty()))
    };
    let text = |f: &mut Fields, field: &str| -> Result<Option<String>, Wrong> {
        Ok(f.take::<String>(field)?.filter(|text| !text.is_empty()))
    };
    let taints: Vec<Taint> = f.take("registerWithTaints")?.unwrap_or_default();
    let access_webhook = match text(f, "authorization.mode")?.as_deref() {
        None => None,
        Some("Webhook") => Some(true),
        Some("AlwaysAllow") => Some(false),
        Some(other) => {
            let why = format!("{other:?} is no mode; there are Webhook and AlwaysAllow");
            return Err(f.invalid("authorization.mode", &why));
        }
    };
    let file = KubeletFile {
        address: f.text("address")?,
        port: f.take("port")?.filter(|port| *port != 0),
        tls_cert_file: path(f, "tlsCertFile")?,
        tls_private_key_file: path(f, "tlsPrivateKeyFile")?,
        client_ca_file: path(f, "authentication.x509.clientCAFile")?,
        anonymous: f.take("authentication.anonymous.enabled")?,
        token_webhook: f.take("authentication.webhook.enabled")?,
        access_webhook,
        rotate_certificates: f.take("rotateCertificates")?,
        server_tls_bootstrap: f.take("serverTLSBootstrap")?,
        register_node: f.take("registerNode")?,
        taints: taints.into_iter().map(|t| (t.key, t.value.unwrap_or_default(), t.effect)).collect(),
        provider_id: text(f, "providerID")?,
        static_pod_path: path(f, "staticPodPath")?,
        pod_logs_dir: path(f, "podLogsDir")?,
        container_runtime_endpoint: text(f, "containerRuntimeEndpoint")?,
        cluster_dns: f.texts("clusterDNS")?,
        cluster_domain: text(f, "clusterDomain")?,
        resolv_conf: path(f, "resolvConf")?,
        cgroup_root: text(f, "cgroupRoot")?,
        max_pods: f.take("maxPods")?.filter(|most| *most != 0),
        status_report: f.duration("nodeStatusReportFrequency")?,
        lease_duration: f
            .take::<u64>("nodeLeaseDurationSeconds")?
            .filter(|seconds| *seconds != 0)
            .map(Duration::from_secs),
        eviction: match f.take::<BTreeMap<String, String>>("evictionHard")? {
            Some(signals) => Some(eviction(&signals).map_err(|e| f.invalid("evictionHard", &e))?),
            None => None,
        },
        image_gc_high: f.take("imageGCHighThresholdPercent")?,
        image_gc_low: f.take("imageGCLowThresholdPercent")?,
        container_log_max_size: match text(f, "containerLogMaxSize")? {
            Some(size) => Some(bytes(&size).map_err(|e| f.invalid("containerLogMaxSize", &e))?),
            None => None,
        },
        container_log_max_files: f.take("containerLogMaxFiles")?,
    };
    let percent = [
        ("imageGCHighThresholdPercent", file.image_gc_high),
        ("imageGCLowThresholdPercent", file.image_gc_low),
    ];
    for (field, value) in percent {
        if value.is_some_and(|value| value > 100) {
            return Err(f.invalid(field, &"must be between 0 and 100, inclusive"));
        }
    }
    Ok(file)
}

fn bytes(text: &str) -> Result<u64, Wrong> {
    let quantity: Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is negative"))
}

/// The hard thresholds; once one is named, those that are not are off, as upstream has it.
fn eviction(signals: &BTreeMap<String, String>) -> Result<EvictionThresholds, Wrong> {
    if signals.is_empty() {
        return Ok(EvictionThresholds::default());
    }
    let percent = |signal: &str, value: &str| {
        value.strip_suffix('%').and_then(|number| number.parse::<u8>().ok()).filter(|n| *n <= 100).ok_or_else(
            || format!("{signal}: {value:?} is no percentage; shares of file systems are given as 10%"),
        )
    };
    let mut thresholds = EvictionThresholds {
        memory_available: 0,
        nodefs_available: 0,
        nodefs_inodes_free: 0,
        imagefs_available: 0,
    };
    for (signal, value) in signals {
        match signal.as_str() {
            "memory.available" => {
                thresholds.memory_available = bytes(value).map_err(|e| format!("{signal}: {e}"))?;
            }
            "nodefs.available" => thresholds.nodefs_available = percent(signal, value)?,
            "nodefs.inodesFree" => thresholds.nodefs_inodes_free = percent(signal, value)?,
            "imagefs.available" => thresholds.imagefs_available = percent(signal, value)?,
            other => return Err(format!("signal {other:?} is not supported")),
        }
    }
    Ok(thresholds)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn file(text: &str) -> Result<(KubeletFile, Vec<String>), Wrong> {
        let text = format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{text}");
        parse(&text, "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", fields, IGNORED)
    }

    #[test]
    fn what_kubeadm_writes_is_taken() {
        let (file, warnings) = file(
            "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  x509:\n    \
             clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    \
             cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\ncgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\n\
             clusterDomain: cluster.local\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
             cpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {}\nevictionPressureTransitionPeriod: 0s\n\
             fileCheckFrequency: 0s\nhealthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nhttpCheckFrequency: 0s\n\
             imageMaximumGCAge: 0s\nimageMinimumGCAge: 0s\nlogging:\n  flushFrequency: 0\n  options:\n    json:\n      \
             infoBufferSize: \"0\"\n    text:\n      infoBufferSize: \"0\"\n  verbosity: 0\nmemorySwap: {}\n\
             nodeStatusReportFrequency: 0s\nnodeStatusUpdateFrequency: 0s\nresolvConf: /run/systemd/resolve/resolv.conf\n\
             rotateCertificates: true\nruntimeRequestTimeout: 0s\nshutdownGracePeriod: 0s\n\
             shutdownGracePeriodCriticalPods: 0s\nstaticPodPath: /etc/kubernetes/manifests\n\
             streamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\nvolumeStatsAggPeriod: 0s\n",
        )
        .unwrap();
        let unsupported = |field: &str| format!("{field} has no effect: it is not supported");
        assert_eq!(warnings, [unsupported("cgroupDriver")]);
        let expect = KubeletFile {
            rotate_certificates: Some(true),
            client_ca_file: Some("/etc/kubernetes/pki/ca.crt".into()),
            anonymous: Some(false),
            token_webhook: Some(true),
            access_webhook: Some(true),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: Some("cluster.local".into()),
            container_runtime_endpoint: Some("unix:///run/containerd/containerd.sock".into()),
            resolv_conf: Some("/run/systemd/resolve/resolv.conf".into()),
            static_pod_path: Some("/etc/kubernetes/manifests".into()),
            ..KubeletFile::default()
        };
        assert_eq!(file, expect);
    }

    #[test]
    fn thresholds_and_sizes_are_read() {
        let (file, warnings) = file(
            "evictionHard: {memory.available: 200Mi, nodefs.available: 5%}\ncontainerLogMaxSize: 5Mi\n\
             nodeLeaseDurationSeconds: 60\nregisterWithTaints: [{key: a, effect: NoSchedule}]\nmaxPods: 0",
        )
        .unwrap();
        assert_eq!(warnings, [""; 0]);
        let eviction = EvictionThresholds {
            memory_available: 200 << 20,
            nodefs_available: 5,
            nodefs_inodes_free: 0,
            imagefs_available: 0,
        };
        assert_eq!(file.eviction, Some(eviction));
        assert_eq!(file.container_log_max_size, Some(5 << 20));
        assert_eq!(file.lease_duration, Some(Duration::from_secs(60)));
        assert_eq!(file.taints, [("a".to_owned(), String::new(), "NoSchedule".to_owned())]);
        assert_eq!(file.max_pods, None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str, expect: &str| {
            let error = file(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("maxPod: 3", "unknown field \"maxPod\"");
        check("authentication: {x509: {caFile: a}}", "unknown field \"authentication.x509\"");
        check("authorization: {mode: RBAC}", "authorization.mode: \"RBAC\" is no mode");
        check("clusterDNS: [dns]", "clusterDNS: \"dns\": invalid IP address");
        check("port: 70000", "port: ");
        check("syncFrequency: 1m\nnodeStatusReportFrequency: soon", "nodeStatusReportFrequency: \"soon\"");
        check("evictionHard: {nodefs.available: 1Gi}", "nodefs.available: \"1Gi\" is no percentage");
        check("evictionHard: {pid.available: 10%}", "signal \"pid.available\" is not supported");
        check("imageGCHighThresholdPercent: 101", "between 0 and 100");
        check("containerLogMaxSize: big", "containerLogMaxSize: ");
    }
}
