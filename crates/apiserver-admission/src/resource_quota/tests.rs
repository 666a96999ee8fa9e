use std::sync::Mutex;

use machinery::gvk::GroupResource;
use serde_json::json;

use super::*;
use crate::testing::{Ask, object};

/// One quota; its status changes under every write, and the first `steals` writes lose to another server.
struct Store {
    quota: Mutex<Object>,
    steals: Mutex<u32>,
}

impl Store {
    fn new(spec: Value, hard: Value, used: Value) -> Arc<Self> {
        let quota = json!({"metadata": {"name": "q", "namespace": "a"}, "spec": spec, "status": {"hard": hard, "used": used}});
        Arc::new(Self { quota: Mutex::new(object(quota)), steals: Mutex::new(0) })
    }

    fn used(&self) -> Value {
        self.quota.lock().unwrap().at(&["status", "used"]).cloned().unwrap()
    }
}

#[async_trait]
impl ClusterView for Store {
    fn get(&self, _: Resource, _: &str, _: &str) -> Option<Arc<Object>> {
        Some(Arc::new(self.quota.lock().unwrap().clone()))
    }

    fn list(&self, resource: Resource, _: &str) -> Vec<Arc<Object>> {
        self.get(resource, "", "").into_iter().collect()
    }

    async fn get_live(&self, resource: Resource, _: &str, _: &str) -> StatusResult<Option<Arc<Object>>> {
        Ok(self.get(resource, "", ""))
    }
}

#[async_trait]
impl QuotaWriter for Store {
    async fn write_status(&self, quota: Object) -> StatusResult<()> {
        let mut steals = self.steals.lock().unwrap();
        if *steals > 0 {
            *steals -= 1;
            let mut stored = self.quota.lock().unwrap();
            let pods = stored.at(&["status", "used", "pods"]).and_then(quota::quantity).unwrap();
            stored.set(&["status", "used", "pods"], pods.add(&Quantity::from_value(1)).to_string());
            return Err(StatusError::stale(&GroupResource::new("", "resourcequotas"), "q"));
        }
        *self.quota.lock().unwrap() = quota;
        Ok(())
    }
}

fn plugin(store: &Arc<Store>) -> ResourceQuota {
    ResourceQuota::new(store.clone(), store.clone())
}

fn pod(cpu: Option<&str>) -> Ask {
    let resources = cpu.map_or(json!({}), |cpu| json!({"requests": {"cpu": cpu}}));
    Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"},
        "spec": {"containers": [{"name": "c", "resources": resources}]}}))
}

#[tokio::test]
async fn charges_until_the_limit() {
    let store = Store::new(
        json!({}),
        json!({"pods": "2", "requests.cpu": "1"}),
        json!({"pods": "0", "requests.cpu": "0"}),
    );
    let plugin = plugin(&store);
    pod(Some("600m")).run(&plugin).await.unwrap();
    assert_eq!(store.used(), json!({"pods": "1", "requests.cpu": "600m"}));
    assert_eq!(
        pod(Some("500m")).run(&plugin).await.unwrap_err(),
        r#"pods "p" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"#
    );
    assert_eq!(
        pod(None).run(&plugin).await.unwrap_err(),
        r#"pods "p" is forbidden: failed quota: q: must specify requests.cpu for: c"#
    );
    pod(Some("400m")).run(&plugin).await.unwrap();
    assert_eq!(store.used(), json!({"pods": "2", "requests.cpu": "1"}));
    let third = pod(Some("0")).run(&plugin).await.unwrap_err();
    assert!(
        third.ends_with("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        "{third}"
    );
}

#[tokio::test]
async fn a_lost_swap_is_judged_anew() {
    let store = Store::new(json!({}), json!({"pods": "2"}), json!({"pods": "0"}));
    *store.steals.lock().unwrap() = 1;
    pod(None).run(&plugin(&store)).await.unwrap();
    assert_eq!(store.used(), json!({"pods": "2"}));
    let full = Store::new(json!({}), json!({"pods": "1"}), json!({"pods": "0"}));
    *full.steals.lock().unwrap() = 1;
    let refused = pod(None).run(&plugin(&full)).await.unwrap_err();
    assert!(
        refused.contains("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_quota_not_yet_counted_refuses() {
    let store = Store::new(json!({}), json!({"pods": "2"}), json!({}));
    let refused = pod(None).run(&plugin(&store)).await.unwrap_err();
    assert_eq!(refused, r#"pods "p" is forbidden: status unknown for quota: q, resources: pods"#);
}

#[tokio::test]
async fn scopes_choose_pods() {
    for (spec, counts) in [
        (json!({"scopes": ["BestEffort"]}), true),
        (json!({"scopes": ["NotBestEffort"]}), false),
        (json!({"scopes": ["Terminating"]}), false),
        (json!({"scopes": ["NotTerminating"]}), true),
        (
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["x"]}]}}),
            false,
        ),
    ] {
        let store = Store::new(spec.clone(), json!({"pods": "5"}), json!({"pods": "0"}));
        pod(None).run(&plugin(&store)).await.unwrap();
        assert_eq!(store.used(), json!({"pods": if counts { "1" } else { "0" }}), "{spec}");
    }
}

#[tokio::test]
async fn other_kinds_count_too() {
    let run = async |resource: (&'static str, &'static str),
                     kind: &'static str,
                     new: Value,
                     old: Option<Value>,
                     used: Value| {
        let hard: Map<String, Value> =
            used.as_object().unwrap().keys().map(|k| (k.clone(), json!("10Gi"))).collect();
        let zero: Map<String, Value> = hard.keys().map(|k| (k.clone(), json!("0"))).collect();
        let store = Store::new(json!({}), hard.into(), zero.into());
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let ask =
            Ask { object: Some(object(new)), old: old.map(object), ..Ask::new(operation, resource, kind) };
        ask.run(&plugin(&store)).await.unwrap();
        assert_eq!(store.used(), used, "{kind}");
    };
    let meta = json!({"name": "x", "namespace": "a"});
    let service = |ty: &str| json!({"metadata": meta, "spec": {"type": ty, "ports": [{}, {}]}});
    run(
        ("", "services"),
        "Service",
        service("NodePort"),
        None,
        json!({"services": "1", "services.nodeports": "2"}),
    )
    .await;
    run(
        ("", "services"),
        "Service",
        service("LoadBalancer"),
        Some(service("NodePort")),
        json!({"services": "0", "services.loadbalancers": "1", "services.nodeports": "0"}),
    )
    .await;
    let claim = json!({"metadata": meta, "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    run(
        ("", "persistentvolumeclaims"),
        "PersistentVolumeClaim",
        claim,
        None,
        json!({"requests.storage": "1Gi", "persistentvolumeclaims": "1", "fast.storageclass.storage.k8s.io/requests.storage": "1Gi"}),
    )
    .await;
    run(
        ("apps", "deployments"),
        "Deployment",
        json!({"metadata": meta}),
        None,
        json!({"count/deployments.apps": "1"}),
    )
    .await;
    run(
        ("", "configmaps"),
        "ConfigMap",
        json!({"metadata": meta}),
        None,
        json!({"configmaps": "1", "count/configmaps": "1"}),
    )
    .await;
}

#[tokio::test]
async fn what_is_limited_by_default_needs_a_quota_that_counts_it() {
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
        "limitedResources": [{"resource": "pods", "matchContains": ["requests.example.com"]}]});
    let gpu = || {
        Ask::create_pod(
            json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": [{"name": "c",
            "resources": {"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}}]}}),
        )
    };
    for (hard, want) in [
        (
            json!({"pods": "5"}),
            "pods \"p\" is forbidden: insufficient quota to consume: requests.example.com/gpu",
        ),
        (json!({"requests.example.com/gpu": "1"}), ""),
    ] {
        let used: Map<String, Value> =
            hard.as_object().unwrap().keys().map(|k| (k.clone(), "0".into())).collect();
        let store = Store::new(json!({}), hard, used.into());
        let plugin = ResourceQuota::from_config(store.clone(), store.clone(), Some(&config)).unwrap();
        assert_eq!(gpu().run(&plugin).await.err().unwrap_or_default(), want);
        assert!(pod(Some("1")).run(&plugin).await.is_ok());
    }
    for wrong in [
        json!({"kind": "X"}),
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
            "limitedResources": [{}]}),
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
            "limitedResources": [{"resource": "pods", "matchScopes": [{"scope": "PriorityClass"}]}]}),
    ] {
        assert!(Limited::from_config(Some(&wrong)).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_limited_by_scope_needs_a_quota_of_that_scope() {
    let important = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high", "top"]});
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
        "limitedResources": [
            {"resource": "pods", "matchScopes": [important]},
            {"resource": "persistentvolumeclaims", "matchScopes": [{"scopeName": "VolumeAttributesClass", "operator": "Exists"}]}]});
    let pod = |class: &str| {
        Ask::create_pod(
            json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"priorityClassName": class}}),
        )
    };
    let claim = |class: &str| Ask {
        object: Some(object(
            json!({"metadata": {"name": "c", "namespace": "a"}, "spec": {"volumeAttributesClassName": class}}),
        )),
        ..Ask::new(Operation::Create, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
    };
    let selector = |scope: &str, values: Value| {
        let operator = if values.is_null() { "Exists" } else { "In" };
        json!({"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]}})
    };
    let pods = "insufficient quota to match these scopes: [{PriorityClass In [high top]}]";
    let claims = "insufficient quota to match these scopes: [{VolumeAttributesClass Exists []}]";
    for (spec, ask, want, used) in [
        (json!({}), pod("low"), "", json!({"pods": "1", "persistentvolumeclaims": "0"})),
        (json!({}), pod("high"), pods, json!({"pods": "0", "persistentvolumeclaims": "0"})),
        (
            selector("PriorityClass", json!(["high"])),
            pod("high"),
            "",
            json!({"pods": "1", "persistentvolumeclaims": "0"}),
        ),
        (
            selector("PriorityClass", json!(["high"])),
            pod("top"),
            pods,
            json!({"pods": "0", "persistentvolumeclaims": "0"}),
        ),
        (json!({}), claim(""), "", json!({"pods": "0", "persistentvolumeclaims": "1"})),
        (json!({}), claim("gold"), claims, json!({"pods": "0", "persistentvolumeclaims": "0"})),
        (
            selector("VolumeAttributesClass", Value::Null),
            claim("gold"),
            "",
            json!({"pods": "0", "persistentvolumeclaims": "1"}),
        ),
        (
            selector("VolumeAttributesClass", json!(["silver"])),
            claim(""),
            "",
            json!({"pods": "0", "persistentvolumeclaims": "0"}),
        ),
    ] {
        let hard = json!({"pods": "5", "persistentvolumeclaims": "5"});
        let store = Store::new(spec.clone(), hard, json!({"pods": "0", "persistentvolumeclaims": "0"}));
        let plugin = ResourceQuota::from_config(store.clone(), store.clone(), Some(&config)).unwrap();
        assert_eq!(ask.run(&plugin).await.err().unwrap_or_default(), want, "{spec}");
        assert_eq!(store.used(), used, "{spec}");
    }
}

#[tokio::test]
async fn only_what_changes_a_count_is_counted() {
    let spec = |deadline: Value| json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"activeDeadlineSeconds": deadline}});
    for (subresource, before, after, used) in [
        ("", json!(null), json!(null), "0"),
        ("", json!(null), json!(5), "1"),
        ("", json!(5), json!(5), "0"),
        ("status", json!(null), json!(5), "0"),
    ] {
        let store =
            Store::new(json!({"scopes": ["Terminating"]}), json!({"pods": "5"}), json!({"pods": "0"}));
        let ask = Ask {
            operation: Operation::Update,
            subresource,
            old: Some(object(spec(before.clone()))),
            ..Ask::create_pod(spec(after.clone()))
        };
        ask.run(&plugin(&store)).await.unwrap();
        assert_eq!(store.used(), json!({"pods": used}), "{subresource} {before} {after}");
    }
    // The status of a claim tells what is so: counted, and never refused.
    let claim = |storage: &str| {
        object(json!({"metadata": {"name": "c", "namespace": "a"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}}, "status": {"allocatedResources": {"storage": storage}}}))
    };
    let store = Store::new(json!({}), json!({"requests.storage": "2Gi"}), json!({"requests.storage": "1Gi"}));
    let ask = Ask {
        subresource: "status",
        object: Some(claim("5Gi")),
        old: Some(claim("1Gi")),
        ..Ask::new(Operation::Update, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
    };
    ask.run(&plugin(&store)).await.unwrap();
    assert_eq!(store.used(), json!({"requests.storage": "5Gi"}));
}
