//! Which plugins there are, in which order they run, and which of them do. Upstream:
//! pkg/kubeapiserver/options/{plugins,admission}.go, 1.36.
use std::sync::Arc;

use crate::settings::{ConfigError, Settings};
use crate::{
    AlwaysAdmit, AlwaysDeny, AlwaysPullImages, Authorize, CertificateApproval, CertificateSigning,
    CertificateSubjectRestriction, Chain, ClusterTrustBundleAttest, ClusterView, DefaultIngressClass,
    DefaultStorageClass, DefaultTolerationSeconds, DenyServiceExternalIps, EventRateLimit,
    ExtendedResourceToleration, FindReviewer, ImagePolicyWebhook, LimitPodHardAntiAffinityTopology,
    LimitRanger, MakeNamespaces, NamespaceAutoProvision, NamespaceExists, NamespaceLifecycle,
    NodeDeclaredFeatureValidator, NodeRestriction, OwnerReferences, PersistentVolumeClaimResize, Plugin,
    PodNodeSelector, PodResizeValidator, PodSecurity, PodTolerationRestriction, PodTopologyLabels, Priority,
    QuotaWriter, ResourceQuota, RuntimeClass, ServedKinds, ServiceAccount, StorageObjectInUseProtection,
    TaintNodesByCondition,
};

/// Whether a plugin runs where nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    On,
    Off,
    /// It would run upstream; what it needs is not here.
    AbsentOn,
    /// It runs upstream behind a feature gate that is closed: it has nothing to say.
    Gated,
}

use Standing::{AbsentOn, Gated, Off, On};

/// All names that upstream knows, in its order.
const ALL: [(&str, Standing); 41] = [
    ("AlwaysAdmit", Off),
    ("NamespaceAutoProvision", Off),
    ("NamespaceLifecycle", On),
    ("NamespaceExists", Off),
    ("LimitPodHardAntiAffinityTopology", Off),
    ("LimitRanger", On),
    ("ServiceAccount", On),
    ("NodeRestriction", Off),
    ("TaintNodesByCondition", On),
    ("AlwaysPullImages", Off),
    ("ImagePolicyWebhook", Off),
    ("PodSecurity", On),
    ("PodNodeSelector", Off),
    ("Priority", On),
    ("DefaultTolerationSeconds", On),
    ("PodTolerationRestriction", Off),
    ("EventRateLimit", Off),
    ("ExtendedResourceToleration", Off),
    ("DefaultStorageClass", On),
    ("StorageObjectInUseProtection", On),
    ("PodGroupProtection", Gated),
    ("OwnerReferencesPermissionEnforcement", Off),
    ("PersistentVolumeClaimResize", On),
    ("RuntimeClass", On),
    ("CertificateApproval", On),
    ("CertificateSigning", On),
    ("ClusterTrustBundleAttest", On),
    ("CertificateSubjectRestriction", On),
    ("DefaultIngressClass", On),
    ("DenyServiceExternalIPs", Off),
    ("PodTopologyLabels", On),
    ("PodGroupWorkloadExists", Gated),
    ("NodeDeclaredFeatureValidator", On),
    ("JobValidation", Gated),
    ("PodResizeValidator", On),
    ("MutatingAdmissionPolicy", AbsentOn),
    ("MutatingAdmissionWebhook", AbsentOn),
    ("ValidatingAdmissionPolicy", AbsentOn),
    ("ValidatingAdmissionWebhook", AbsentOn),
    ("ResourceQuota", On),
    ("AlwaysDeny", Off),
];

/// Names that upstream once knew: the release that removed them, where that matters, and what does their work now.
const REMOVED: [(&str, &str, &str); 10] = [
    ("DenyEscalatingExec", "", "PodSecurity, or roles without pods/exec"),
    ("DenyExecOnPrivileged", "", "PodSecurity, or roles without pods/exec"),
    ("GenericAdmissionWebhook", "1.9", "MutatingAdmissionWebhook and ValidatingAdmissionWebhook"),
    ("InitialResources", "", "LimitRanger, which fills in requests and limits"),
    ("Initializers", "1.14", "MutatingAdmissionWebhook"),
    ("PersistentVolumeLabel", "1.31", "the labels that cloud controllers and CSI drivers set"),
    ("PVCProtection", "1.10", "StorageObjectInUseProtection, which is on by default"),
    ("PodPreset", "1.20", "MutatingAdmissionWebhook"),
    ("PodSecurityPolicy", "1.25", "PodSecurity, which is on by default and follows labels of namespaces"),
    ("SecurityContextDeny", "1.30", "PodSecurity, which is on by default and follows labels of namespaces"),
];

/// The flags that choose plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginFlags {
    /// `--enable-admission-plugins`.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable: Vec<String>,
    /// `--admission-control`: these and no others. Deprecated by upstream.
    pub only: Option<Vec<String>>,
}

/// The plugins that run, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    names: Vec<&'static str>,
    absent: Vec<&'static str>,
}

impl Default for Selection {
    fn default() -> Self {
        let on = ALL.iter().filter(|(_, standing)| *standing == On);
        Self { names: on.map(|(name, _)| *name).collect(), absent: Vec::new() }
    }
}

fn unknown(flag: &str, name: &str) -> String {
    let told = format!("{flag} plugin {name:?} is unknown");
    match REMOVED.iter().find(|(removed, ..)| *removed == name) {
        Some((_, "", instead)) => {
            format!("{told}: Kubernetes removed it; what does its work now is {instead}")
        }
        Some((_, release, instead)) => {
            format!("{told}: Kubernetes {release} removed it; what does its work now is {instead}")
        }
        None => told,
    }
}

impl PluginFlags {
    /// What the flags mean.
    pub fn settled(&self) -> Result<Selection, ConfigError> {
        let mut problems = Vec::new();
        if self.only.is_some() && !(self.enable.is_empty() && self.disable.is_empty()) {
            problems.push(
                "admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive"
                    .to_owned(),
            );
        }
        let known = |name: &str| ALL.iter().any(|(n, _)| *n == name);
        let lists = [
            ("admission-control", self.only.as_deref().unwrap_or_default()),
            ("enable-admission-plugins", &self.enable),
            ("disable-admission-plugins", &self.disable),
        ];
        for (flag, names) in lists {
            problems.extend(names.iter().filter(|n| !known(n)).map(|n| unknown(flag, n)));
        }
        let mut both: Vec<&str> =
            self.enable.iter().filter(|n| self.disable.contains(n)).map(String::as_str).collect();
        both.sort_unstable();
        both.dedup();
        if !both.is_empty() {
            problems.push(format!(
                "[{}] in enable-admission-plugins and disable-admission-plugins overlapped",
                both.join(" ")
            ));
        }
        let wanted = |name: &str| {
            let named = |list: &[String]| list.iter().any(|n| n == name);
            match &self.only {
                Some(only) => Some(named(only)),
                None if named(&self.enable) => Some(true),
                None if named(&self.disable) => Some(false),
                None => None,
            }
        };
        let (mut names, mut absent) = (Vec::new(), Vec::new());
        for (name, standing) in ALL {
            match (standing, wanted(name)) {
                (On | Off, Some(true)) | (On, None) => names.push(name),
                (AbsentOn, Some(true)) => absent.push(name),
                _ => {}
            }
        }
        if problems.is_empty() {
            Ok(Selection { names, absent })
        } else {
            Err(ConfigError(problems.join("; ")))
        }
    }
}

/// What plugins need of the server.
pub struct Needs {
    /// What they see of the cluster.
    pub cluster: Arc<dyn ClusterView>,
    /// Who may approve, sign, attest.
    pub authorize: Arc<dyn Authorize>,
    /// Which resource serves a kind.
    pub kinds: Arc<dyn ServedKinds>,
    /// Charges quotas.
    pub quota: Arc<dyn QuotaWriter>,
    /// Makes namespaces.
    pub namespaces: Arc<dyn MakeNamespaces>,
    /// Who is asked about images.
    pub reviewers: FindReviewer,
    /// How long pods stay on nodes that are not ready or not reachable.
    pub tolerations: DefaultTolerationSeconds,
}

impl Selection {
    /// With `NodeRestriction`, as kubeadm turns it on.
    #[must_use]
    pub fn with_node_restriction() -> Self {
        let flags = PluginFlags { enable: vec!["NodeRestriction".into()], ..PluginFlags::default() };
        flags.settled().unwrap_or_default()
    }

    /// The plugins that run, in order.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Plugins that were asked for by name, are on by default upstream, and are not here.
    pub fn absent(&self) -> &[&'static str] {
        &self.absent
    }

    /// The chain, each plugin with its configuration.
    pub fn build(&self, needs: &Needs, settings: &Settings) -> Result<Chain, ConfigError> {
        let mut all = Vec::new();
        for name in &self.names {
            let made = plugin(name, needs, settings);
            all.extend(
                made.map_err(|e| ConfigError(format!("couldn't init admission plugin {name:?}: {e}")))?,
            );
        }
        Ok(Chain(all))
    }
}

fn plugin(name: &str, needs: &Needs, settings: &Settings) -> Result<Option<Box<dyn Plugin>>, ConfigError> {
    let (cluster, authorize) = (|| needs.cluster.clone(), || needs.authorize.clone());
    let config = settings.of(name);
    Ok(Some(match name {
        "AlwaysAdmit" => Box::new(AlwaysAdmit),
        "NamespaceAutoProvision" => {
            Box::new(NamespaceAutoProvision { cluster: cluster(), namespaces: needs.namespaces.clone() })
        }
        "NamespaceLifecycle" => Box::new(NamespaceLifecycle(cluster())),
        "NamespaceExists" => Box::new(NamespaceExists(cluster())),
        "LimitPodHardAntiAffinityTopology" => Box::new(LimitPodHardAntiAffinityTopology),
        "LimitRanger" => Box::new(LimitRanger(cluster())),
        "ServiceAccount" => Box::new(ServiceAccount(cluster())),
        "NodeRestriction" => Box::new(NodeRestriction(cluster())),
        "TaintNodesByCondition" => Box::new(TaintNodesByCondition),
        "AlwaysPullImages" => Box::new(AlwaysPullImages),
        "ImagePolicyWebhook" => Box::new(ImagePolicyWebhook::from_config(&needs.reviewers, config)?),
        "PodSecurity" => Box::new(PodSecurity::from_config(cluster(), config)?),
        "PodNodeSelector" => Box::new(PodNodeSelector::from_config(cluster(), config)?),
        "Priority" => Box::new(Priority(cluster())),
        "DefaultTolerationSeconds" => Box::new(needs.tolerations),
        "PodTolerationRestriction" => Box::new(PodTolerationRestriction::from_config(cluster(), config)?),
        "EventRateLimit" => Box::new(EventRateLimit::from_config(config)?),
        "ExtendedResourceToleration" => Box::new(ExtendedResourceToleration),
        "DefaultStorageClass" => Box::new(DefaultStorageClass(cluster())),
        "StorageObjectInUseProtection" => Box::new(StorageObjectInUseProtection),
        "OwnerReferencesPermissionEnforcement" => {
            Box::new(OwnerReferences { authorize: authorize(), kinds: needs.kinds.clone() })
        }
        "PersistentVolumeClaimResize" => Box::new(PersistentVolumeClaimResize(cluster())),
        "RuntimeClass" => Box::new(RuntimeClass(cluster())),
        "CertificateApproval" => Box::new(CertificateApproval(authorize())),
        "CertificateSigning" => Box::new(CertificateSigning(authorize())),
        "ClusterTrustBundleAttest" => Box::new(ClusterTrustBundleAttest(authorize())),
        "CertificateSubjectRestriction" => Box::new(CertificateSubjectRestriction),
        "DefaultIngressClass" => Box::new(DefaultIngressClass(cluster())),
        "DenyServiceExternalIPs" => Box::new(DenyServiceExternalIps),
        "PodTopologyLabels" => Box::new(PodTopologyLabels(cluster())),
        "NodeDeclaredFeatureValidator" => Box::new(NodeDeclaredFeatureValidator(cluster())),
        "PodResizeValidator" => Box::new(PodResizeValidator(cluster())),
        "ResourceQuota" => Box::new(ResourceQuota::from_config(cluster(), needs.quota.clone(), config)?),
        "AlwaysDeny" => Box::new(AlwaysDeny),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use machinery::request::{RequestInfo, UserInfo};
    use machinery::{Object, StatusResult};
    use serde_json::json;

    use super::*;
    use crate::testing::FakeCluster;
    use crate::{ImageReviewer, NoReview, Served};

    struct Nobody;

    #[async_trait]
    impl Authorize for Nobody {
        async fn decide(&self, _user: &UserInfo, _request: &RequestInfo) -> Result<(), String> {
            Err(String::new())
        }
    }

    impl ServedKinds for Nobody {
        fn served(&self, _group: &str, _version: &str, _kind: &str) -> Option<Served> {
            None
        }
    }

    #[async_trait]
    impl MakeNamespaces for Nobody {
        async fn make(&self, _name: &str) -> StatusResult<()> {
            Ok(())
        }
    }

    #[async_trait]
    impl ImageReviewer for Nobody {
        async fn review(&self, _question: &[u8]) -> Result<Vec<u8>, NoReview> {
            Err(NoReview { why: String::new(), again: false })
        }
    }

    #[async_trait]
    impl QuotaWriter for Nobody {
        async fn write_status(&self, _quota: Object) -> StatusResult<()> {
            Ok(())
        }
    }

    fn needs() -> Needs {
        Needs {
            cluster: Arc::new(FakeCluster::default()),
            authorize: Arc::new(Nobody),
            kinds: Arc::new(Nobody),
            quota: Arc::new(Nobody),
            namespaces: Arc::new(Nobody),
            reviewers: Box::new(|_| Ok(Arc::new(Nobody))),
            tolerations: DefaultTolerationSeconds::default(),
        }
    }

    fn flags(enable: &[&str], disable: &[&str]) -> PluginFlags {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        PluginFlags { enable: owned(enable), disable: owned(disable), only: None }
    }

    #[test]
    fn the_default_is_upstreams_in_its_order() {
        let built = Selection::default().build(&needs(), &Settings::default()).unwrap();
        let names: Vec<&str> = built.0.iter().map(|p| p.name()).collect();
        assert_eq!(
            names,
            [
                "NamespaceLifecycle",
                "LimitRanger",
                "ServiceAccount",
                "TaintNodesByCondition",
                "PodSecurity",
                "Priority",
                "DefaultTolerationSeconds",
                "DefaultStorageClass",
                "StorageObjectInUseProtection",
                "PersistentVolumeClaimResize",
                "RuntimeClass",
                "CertificateApproval",
                "CertificateSigning",
                "ClusterTrustBundleAttest",
                "CertificateSubjectRestriction",
                "DefaultIngressClass",
                "PodTopologyLabels",
                "NodeDeclaredFeatureValidator",
                "PodResizeValidator",
                "ResourceQuota",
            ]
        );
    }

    #[test]
    fn every_plugin_that_may_be_named_is_made() {
        let limits = json!([{"type": "Server", "qps": 1, "burst": 1}]);
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
            {"name": "EventRateLimit", "configuration": {"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
                "kind": "Configuration", "limits": limits}},
            {"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": {"kubeConfigFile": "/k"}}}]});
        let settings =
            Settings::parse(&config.to_string(), std::path::Path::new("/"), |_| Err(String::new()));
        for (name, standing) in ALL {
            let settled = flags(&[name], &[]).settled();
            match standing {
                On | Off => {
                    let built = settled.unwrap().build(&needs(), settings.as_ref().unwrap()).unwrap();
                    assert!(built.0.iter().any(|p| p.name() == name), "{name}");
                }
                AbsentOn => assert_eq!(settled.unwrap().absent(), [name]),
                Gated => assert_eq!(settled.unwrap(), Selection::default()),
            }
        }
    }

    #[test]
    fn flags_switch_plugins() {
        let names = |flags: PluginFlags| flags.settled().unwrap().names().to_vec();
        let on = Selection::default().names.len();
        let more = names(flags(&["AlwaysPullImages", "NodeRestriction"], &[]));
        assert_eq!(more.len(), on + 2);
        assert_eq!(more[3..6], ["NodeRestriction", "TaintNodesByCondition", "AlwaysPullImages"]);
        assert_eq!(names(flags(&[], &["ServiceAccount", "MutatingAdmissionWebhook"])).len(), on - 1);
        let only = PluginFlags {
            only: Some(vec!["ServiceAccount".into(), "NamespaceLifecycle".into()]),
            ..PluginFlags::default()
        };
        assert_eq!(names(only), ["NamespaceLifecycle", "ServiceAccount"]);
    }

    #[test]
    fn unknown_and_removed_names_are_told_apart() {
        let why = |flags: PluginFlags| flags.settled().unwrap_err().0;
        assert_eq!(
            why(flags(&["Made"], &["Up"])),
            "enable-admission-plugins plugin \"Made\" is unknown; disable-admission-plugins plugin \"Up\" is unknown"
        );
        let removed = why(flags(&["SecurityContextDeny"], &[]));
        assert!(removed.contains("is unknown: Kubernetes 1.30 removed it"), "{removed}");
        assert!(removed.contains("PodSecurity"), "{removed}");
        assert_eq!(
            why(flags(&["Priority", "LimitRanger"], &["LimitRanger"])),
            "[LimitRanger] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
        let both = PluginFlags { only: Some(vec!["Initializers".into()]), ..flags(&["Priority"], &[]) };
        let both = why(both);
        assert!(both.contains("flags are mutually exclusive"), "{both}");
        assert!(
            both.contains("admission-control plugin \"Initializers\" is unknown: Kubernetes 1.14"),
            "{both}"
        );
        let built =
            flags(&["ImagePolicyWebhook"], &[]).settled().unwrap().build(&needs(), &Settings::default());
        let untold = "couldn't init admission plugin \"ImagePolicyWebhook\": no config specified";
        assert_eq!(built.err().unwrap().0, untold);
        for (name, ..) in REMOVED {
            assert!(!ALL.iter().any(|(n, _)| *n == name), "{name} is both");
        }
    }

    #[test]
    fn a_configuration_that_is_wrong_names_its_plugin() {
        let settings = Settings::parse(
            "{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [{name: PodSecurity, \
             configuration: {kind: X}}]}",
            std::path::Path::new("/"),
            |_| Err(String::new()),
        );
        let why = Selection::default().build(&needs(), &settings.unwrap()).err().unwrap().0;
        assert!(why.starts_with("couldn't init admission plugin \"PodSecurity\": no kind \"X\""), "{why}");
    }
}
