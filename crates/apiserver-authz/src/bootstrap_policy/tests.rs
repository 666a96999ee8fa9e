use std::collections::HashSet;
use std::time::Instant;

use machinery::request::{Attributes, RequestInfo, UserInfo};

use super::*;
use crate::rbac::Rbac;

fn loaded() -> Rbac {
    let rbac = Rbac::new();
    for object in objects() {
        rbac.set(&object);
    }
    rbac
}

fn resource(verb: &str, group: &str, resource: &str, namespace: &str) -> RequestInfo {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    RequestInfo {
        verb: verb.into(),
        is_resource: true,
        api_group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        ..RequestInfo::default()
    }
}

#[test]
fn every_object_is_whole_and_there_once() {
    let objects = objects();
    let mut seen = HashSet::new();
    for o in &objects {
        assert!(
            seen.insert((o.kind().to_owned(), o.namespace().to_owned(), o.name().to_owned())),
            "{}",
            o.name()
        );
        assert_eq!(o.annotation(AUTOUPDATE), Some("true"));
        assert_eq!(o.label("kubernetes.io/bootstrapping"), Some("rbac-defaults"));
    }
    for o in objects.iter().filter(|o| o.kind().ends_with("Binding")) {
        let kind = o.str_at(&["roleRef", "kind"]).to_owned();
        let namespace = if kind == "Role" { o.namespace().to_owned() } else { String::new() };
        let role = o.str_at(&["roleRef", "name"]).to_owned();
        assert!(seen.contains(&(kind, namespace, role)), "{} binds nothing", o.name());
    }
    for o in &objects {
        assert_eq!(reconcile(o, Some(o)), Reconciled::UpToDate, "{}", o.name());
    }
}

#[test]
fn aggregated_roles_hold_what_they_gather() {
    let rbac = loaded();
    let allows = |role: &str, request: RequestInfo| {
        rbac.rules_of_role("", role).unwrap().iter().any(|r| r.allows(&request))
    };
    for (role, verb, group, res, want) in [
        ("view", "list", "", "pods", true),
        ("view", "get", "", "secrets", false),
        ("view", "create", "", "pods", false),
        ("edit", "list", "", "pods", true),
        ("edit", "get", "", "secrets", true),
        ("edit", "create", "apps", "deployments", true),
        ("edit", "create", "rbac.authorization.k8s.io", "roles", false),
        ("admin", "create", "rbac.authorization.k8s.io", "roles", true),
        ("admin", "create", "apps", "deployments", true),
        ("admin", "get", "apps", "deployments", true),
        ("admin", "create", "", "namespaces", false),
    ] {
        assert_eq!(allows(role, resource(verb, group, res, "a")), want, "{role} {verb} {res}");
    }
}

#[test]
fn each_identity_may_do_its_work_and_no_more() {
    let rbac = loaded();
    let check = |user: &UserInfo, request: RequestInfo, want: bool| {
        let answer = rbac.decide(&Attributes { user, request: &request });
        assert_eq!(answer.is_allowed(), want, "{} {request:?}", user.name);
    };
    let path = |p: &str| RequestInfo { verb: "get".into(), path: p.into(), ..RequestInfo::default() };
    let authenticated = &["system:authenticated"];
    let scheduler = UserInfo::new("system:kube-scheduler", authenticated);
    check(&scheduler, resource("create", "", "pods/binding", "a"), true);
    check(&scheduler, resource("create", "", "pods", "a"), false);
    check(&scheduler, resource("create", "coordination.k8s.io", "leases", "kube-system"), true);
    let mut lease = resource("update", "coordination.k8s.io", "leases", "kube-system");
    lease.name = "kube-scheduler".into();
    check(&scheduler, lease.clone(), true);
    lease.name = "other".into();
    check(&scheduler, lease, false);
    let manager = UserInfo::new("system:kube-controller-manager", authenticated);
    check(&manager, resource("list", "apps", "deployments", ""), true);
    check(&manager, resource("create", "", "serviceaccounts/token", "kube-system"), true);
    check(&manager, resource("create", "", "pods", "a"), false);
    let proxy = UserInfo::new("system:kube-proxy", authenticated);
    check(&proxy, resource("watch", "discovery.k8s.io", "endpointslices", ""), true);
    check(&proxy, resource("watch", "", "secrets", ""), false);
    let deployer = UserInfo::new("system:serviceaccount:kube-system:deployment-controller", authenticated);
    check(&deployer, resource("create", "apps", "replicasets", "a"), true);
    check(&deployer, resource("create", "", "pods", "a"), false);
    let node = UserInfo::new("system:node:n", &["system:nodes", "system:authenticated"]);
    check(&node, resource("get", "", "secrets", "a"), false);
    let jane = UserInfo::new("jane", authenticated);
    check(&jane, path("/apis/apps/v1"), true);
    check(&jane, resource("create", "authorization.k8s.io", "selfsubjectaccessreviews", ""), true);
    check(&jane, path("/metrics"), false);
    let nobody = UserInfo::anonymous();
    check(&nobody, path("/version"), true);
    check(&nobody, path("/healthz"), true);
    check(&nobody, path("/apis"), false);
    check(&nobody, resource("list", "", "pods", "default"), false);
    check(&UserInfo::new("root", &["system:masters"]), resource("anything", "x", "y", ""), true);
}

/// Prints what one decision costs; judges nothing.
#[test]
fn prints_the_cost_of_a_decision() {
    let rbac = loaded();
    for (who, request) in [
        (UserInfo::new("jane", &["devs", "system:authenticated"]), resource("get", "", "pods", "default")),
        (UserInfo::new("system:kube-scheduler", &["system:authenticated"]), resource("list", "", "pods", "")),
        (
            UserInfo::new("root", &["system:masters", "system:authenticated"]),
            resource("get", "", "pods", "default"),
        ),
    ] {
        let rounds = 20_000_u32;
        let start = Instant::now();
        let allowed = (0..rounds)
            .filter(|_| rbac.decide(&Attributes { user: &who, request: &request }).is_allowed())
            .count();
        println!("{}: {:?} a decision ({allowed} of {rounds} allowed)", who.name, start.elapsed() / rounds);
        assert!(allowed == 0 || allowed == rounds as usize);
    }
}
