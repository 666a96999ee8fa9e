//! The objects that every cluster starts with. Upstream: pkg/controlplane, 1.36.
use std::net::IpAddr;
use std::sync::Arc;

use apiserver_authz::bootstrap_policy::{self, Reconciled};
use apiserver_registry::{DeleteOptions, Registry, Store, Warnings, Write, encode};
use machinery::request::UserInfo;
use machinery::{Object, StatusError, StatusResult};
use serde_json::{Value, json};

use crate::authentication::FrontProxy;

/// Where the API server itself can be reached.
#[derive(Debug, Clone)]
pub struct Advertised {
    /// First address of the service CIDR: the cluster IP of `kubernetes`.
    pub service_ip: String,
    /// The service CIDR.
    pub service_cidr: String,
    /// `--advertise-address`.
    pub address: IpAddr,
    /// The secure port.
    pub port: u16,
}

/// Writes as the server itself.
pub struct Bootstrap<'a> {
    registry: &'a Registry,
    user: UserInfo,
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap_or_default()
}

impl<'a> Bootstrap<'a> {
    /// Writes to these stores.
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, user: UserInfo::new("system:apiserver", &["system:masters"]) }
    }

    fn store(&self, group: &str, plural: &str) -> StatusResult<&'a Arc<Store>> {
        self.registry
            .store(group, plural)
            .ok_or_else(|| StatusError::internal(format!("{plural}.{group} is not served")))
    }

    fn write<'b>(&'b self, store: &'b Store, object: &'b Object, warnings: &'b Warnings) -> Write<'b> {
        Write {
            kind: &store.kind,
            namespace: object.namespace(),
            name: object.name(),
            subresource: "",
            user: &self.user,
            manager: "kube-apiserver".to_owned(),
            dry_run: false,
            warnings,
        }
    }

    async fn find(&self, store: &Store, object: &Object) -> StatusResult<Option<Object>> {
        Ok(store.get_live(object.namespace(), object.name()).await?.map(|s| s.object))
    }

    async fn create(&self, store: &Store, object: &Object) -> StatusResult<()> {
        let warnings = Warnings::default();
        match store.create(&self.write(store, object, &warnings), object.clone()).await {
            Ok(_) => Ok(()),
            // Another server was first.
            Err(e) if e.reason() == "AlreadyExists" => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn ensure(&self, store: &Store, object: &Object) -> StatusResult<()> {
        if self.find(store, object).await?.is_some() {
            return Ok(());
        }
        self.create(store, object).await
    }

    /// Creates the object, or writes these fields of it over the stored one.
    async fn enforce(&self, store: &Store, wanted: &Object, fields: &[&[&str]]) -> StatusResult<()> {
        let Some(found) = self.find(store, wanted).await? else { return self.create(store, wanted).await };
        if fields.iter().all(|f| found.at(f) == wanted.at(f)) {
            return Ok(());
        }
        let warnings = Warnings::default();
        let change = |old: &Object| {
            let mut new = old.clone();
            new.remove(&["metadata", "resourceVersion"]);
            for field in fields {
                new.copy_from(wanted, field);
            }
            Ok(new)
        };
        store.update(&self.write(store, wanted, &warnings), change, None).await.map(drop)
    }

    /// The system namespaces and priority classes.
    pub async fn namespaces(&self) -> StatusResult<()> {
        let store = self.store("", "namespaces")?;
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let value = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            self.ensure(store, &object(value)).await?;
        }
        let store = self.store("scheduling.k8s.io", "priorityclasses")?;
        for (name, value, description) in [
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            let class = json!({
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": { "name": name },
                "value": value,
                "description": description,
                "preemptionPolicy": "PreemptLowerPriority",
            });
            self.ensure(store, &object(class)).await?;
        }
        Ok(())
    }

    /// Default roles and bindings.
    pub async fn policy(&self) -> StatusResult<()> {
        for wanted in bootstrap_policy::objects() {
            let plural = format!("{}s", wanted.kind().to_lowercase());
            let store = self.store("rbac.authorization.k8s.io", &plural)?;
            let found = self.find(store, &wanted).await?;
            let warnings = Warnings::default();
            match bootstrap_policy::reconcile(&wanted, found.as_ref()) {
                Reconciled::UpToDate => {}
                Reconciled::Create(new) => self.create(store, &new).await?,
                Reconciled::Update(new) => {
                    store.update(&self.write(store, &wanted, &warnings), |_| Ok(new.clone()), None).await?;
                }
                Reconciled::Recreate(new) => {
                    let write = self.write(store, &wanted, &warnings);
                    store.delete(&write, &DeleteOptions::default()).await?;
                    self.create(store, &new).await?;
                }
            }
        }
        Ok(())
    }

    /// The `kubernetes` Service, and the service CIDR.
    pub async fn kubernetes_service(&self, at: &Advertised) -> StatusResult<()> {
        let cidr = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": { "name": "kubernetes" },
            "spec": { "cidrs": [at.service_cidr] },
        });
        let cidrs = self.store("networking.k8s.io", "servicecidrs")?;
        self.ensure(cidrs, &object(cidr.clone())).await?;
        self.cidr_is_ready(cidrs, &object(cidr)).await?;

        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "component": "apiserver", "provider": "kubernetes" },
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": at.service_ip,
                "sessionAffinity": "None",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": at.port }],
            },
        });
        self.ensure(self.store("", "services")?, &object(service)).await?;
        Ok(())
    }

    /// The endpoints of the `kubernetes` Service.
    pub async fn endpoints(&self, at: &Advertised, addresses: &[IpAddr]) -> StatusResult<()> {
        let each: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
        let endpoints = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": [{
                "addresses": each,
                "ports": [{ "name": "https", "port": at.port, "protocol": "TCP" }],
            }],
        });
        self.enforce(self.store("", "endpoints")?, &object(endpoints), &[&["subsets"]]).await?;

        let each: Vec<Value> = addresses
            .iter()
            .map(|ip| json!({ "addresses": [ip.to_string()], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
            },
            "addressType": if at.address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": each,
            "ports": [{ "name": "https", "port": at.port, "protocol": "TCP" }],
        });
        let slices = self.store("discovery.k8s.io", "endpointslices")?;
        self.enforce(slices, &object(slice), &[&["endpoints"], &["ports"]]).await
    }

    /// Flow schemas and priority levels.
    pub async fn flow_control(&self) -> StatusResult<()> {
        for (plural, wanted) in [
            ("prioritylevelconfigurations", crate::flow_control::priority_levels()),
            ("flowschemas", crate::flow_control::flow_schemas()),
        ] {
            let store = self.store("flowcontrol.apiserver.k8s.io", plural)?;
            let ensured = wanted.iter().map(|object| self.ensure(store, object));
            futures::future::try_join_all(ensured).await?;
        }
        Ok(())
    }

    async fn cidr_is_ready(&self, store: &Store, cidr: &Object) -> StatusResult<()> {
        let found = self.find(store, cidr).await?.unwrap_or_default();
        if found.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready") {
            return Ok(());
        }
        let warnings = Warnings::default();
        let write = Write { subresource: "status", ..self.write(store, cidr, &warnings) };
        let change = |old: &Object| {
            let mut new = old.clone();
            new.remove(&["metadata", "resourceVersion"]);
            let condition = json!([{
                "type": "Ready",
                "status": "True",
                "reason": "",
                "message": "Kubernetes Service CIDR is ready",
                "lastTransitionTime": apiserver_registry::timestamp(jiff::Timestamp::now()),
            }]);
            new.set(&["status", "conditions"], condition);
            Ok(new)
        };
        store.update(&write, change, None).await.map(drop)
    }

    /// What aggregated API servers and kubelets read to authenticate clients.
    pub async fn authentication_config(
        &self,
        client_ca: Option<&str>,
        front_proxy: Option<&(FrontProxy, String)>,
    ) -> StatusResult<()> {
        let mut data = json!({});
        if let Some(ca) = client_ca {
            data["client-ca-file"] = json!(ca);
        }
        if let Some((proxy, ca)) = front_proxy {
            let list = |values: &[String]| json!(json!(values).to_string());
            data["requestheader-client-ca-file"] = json!(ca);
            data["requestheader-allowed-names"] = list(&proxy.allowed_names);
            data["requestheader-username-headers"] = list(&proxy.headers.username);
            data["requestheader-uid-headers"] = list(&proxy.headers.uid);
            data["requestheader-group-headers"] = list(&proxy.headers.group);
            data["requestheader-extra-headers-prefix"] = list(&proxy.headers.extra_prefixes);
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": data,
        });
        self.enforce(self.store("", "configmaps")?, &object(config), &[&["data"]]).await
    }

    /// Whether a stored object decodes: the last check before the server calls itself ready.
    pub async fn storage_answers(&self) -> StatusResult<()> {
        let page = self.store("", "namespaces")?.list("", &Default::default()).await?;
        for item in &page.items.into_vec() {
            encode::decode(&item.value, item.revision)?;
        }
        Ok(())
    }
}
