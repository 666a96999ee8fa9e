use super::*;

fn policy(rest: &str) -> Result<Policy, PolicyError> {
    Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rest}").as_bytes())
}

fn pod(verb: &str, subresource: &str) -> RequestInfo {
    RequestInfo {
        path: "/api/v1/namespaces/default/pods/web".into(),
        verb: verb.into(),
        is_resource: true,
        api_version: "v1".into(),
        namespace: "default".into(),
        resource: "pods".into(),
        subresource: subresource.into(),
        name: "web".into(),
        ..RequestInfo::default()
    }
}

fn path(path: &str) -> RequestInfo {
    RequestInfo { path: path.into(), verb: "get".into(), ..RequestInfo::default() }
}

#[test]
fn a_rule_matches_what_it_says_and_no_more() {
    let user = UserInfo::new("tim", &["humans", "system:authenticated"]);
    let check = |rule: &str, request: &RequestInfo, expect: bool| {
        let policy = policy(&format!("rules: [{{level: Metadata, {rule}}}]")).unwrap();
        let got = policy.verdict(Some(&user), request).level == Level::Metadata;
        assert_eq!(got, expect, "{rule}: {request:?}");
    };
    let get = pod("get", "");
    check("users: []", &get, true);
    check("users: []", &path("/metrics"), true);
    check("users: [tim]", &get, true);
    check("users: [tom, tim]", &get, true);
    check("users: [tom]", &get, false);
    check("userGroups: [humans]", &get, true);
    check("userGroups: [robots]", &get, false);
    check("users: [tim], userGroups: [robots]", &get, false);
    check("verbs: [get, list]", &get, true);
    check("verbs: [watch]", &get, false);
    check("namespaces: [default]", &get, true);
    check("namespaces: [other]", &get, false);
    check("namespaces: ['']", &get, false);
    check("namespaces: [default]", &path("/metrics"), false);
    check("resources: [{group: ''}]", &get, true);
    check("resources: [{group: apps}]", &get, false);
    check("resources: [{group: ''}]", &path("/metrics"), false);
    for (spec, plain, log) in [
        ("pods", true, false),
        ("'*'", true, true),
        ("pods/log", false, true),
        ("pods/exec", false, false),
        ("'pods/*'", true, true),
        ("'*/log'", false, true),
        ("'*/scale'", false, false),
        ("services", false, false),
        ("'services/*'", false, false),
    ] {
        check(&format!("resources: [{{group: '', resources: [{spec}]}}]"), &get, plain);
        check(&format!("resources: [{{group: '', resources: [{spec}]}}]"), &pod("get", "log"), log);
    }
    check("resources: [{group: '', resources: [pods], resourceNames: [web]}]", &get, true);
    check("resources: [{group: '', resources: [pods], resourceNames: [db]}]", &get, false);
    check("resources: [{group: apps}, {group: '', resources: [services, pods]}]", &get, true);
    for (spec, expect) in
        [("/metrics", true), ("'*'", true), ("'/met*'", true), ("/met", false), ("/healthz", false)]
    {
        check(&format!("nonResourceURLs: [{spec}]"), &path("/metrics"), expect);
        check(&format!("nonResourceURLs: [{spec}]"), &get, false);
    }
}

#[test]
fn the_first_rule_counts_and_none_means_nothing() {
    let policy = policy(
        "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
         - {level: None, users: ['system:kube-proxy'], verbs: [watch]}\n\
         - {level: RequestResponse, omitStages: [ResponseStarted], omitManagedFields: false, resources: [{group: '', resources: [pods]}]}\n\
         - {level: Metadata, resources: [{group: ''}]}\n",
    )
    .unwrap();
    let proxy = UserInfo::new("system:kube-proxy", &[]);
    let level = |verb: &str| policy.verdict(Some(&proxy), &pod(verb, "")).level;
    assert_eq!((level("watch"), level("get")), (Level::None, Level::RequestResponse));
    let verdict = policy.verdict(Some(&proxy), &pod("get", ""));
    assert!(!verdict.records(Stage::RequestReceived) && !verdict.records(Stage::ResponseStarted));
    assert!(verdict.records(Stage::ResponseComplete) && !verdict.omit_managed_fields);
    let verdict = policy.verdict(Some(&proxy), &pod("get", "status"));
    assert_eq!(verdict.level, Level::Metadata);
    assert!(verdict.omit_managed_fields && verdict.records(Stage::ResponseStarted));
    assert!(!policy.verdict(Some(&proxy), &path("/x")).records(Stage::ResponseComplete));
}

#[test]
fn who_is_not_known_matches_no_rule_about_users() {
    let all =
        policy("rules: [{level: Request, users: [a]}, {level: None, userGroups: [a]}, {level: Metadata}]");
    assert_eq!(all.unwrap().verdict(None, &pod("get", "")).level, Level::Metadata);
}

#[test]
fn what_is_wrong_is_all_said() {
    let check = |rest: &str, expect: &str| {
        assert_eq!(policy(rest).map(drop).map_err(|e| e.to_string()), Err(expect.to_owned()), "{rest}");
    };
    check("", "loaded illegal policy with 0 rules");
    check("rules: [{}]", "rules[0].level: Required value");
    check(
        "omitStages: [x]\nrules: [{level: All, nonResourceURLs: [metrics, '/a*b', '*'], namespaces: [a], omitStages: [z], resources: [{group: a/v1, resourceNames: [x]}]}]",
        "[omitStages[0]: Invalid value: \"x\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic, \
         rules[0].level: Unsupported value: \"All\": supported values: \"Metadata\", \"None\", \"Request\", \"RequestResponse\", \
         rules[0].nonResourceURLs[0]: Invalid value: \"metrics\": non-resource URL rules must begin with a '/' character, \
         rules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule, \
         rules[0].resources.group: Invalid value: \"a/v1\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), \
         rules[0].resources.resourceNames: Invalid value: [\"x\"]: using resourceNames requires at least one resource, \
         rules[0].omitStages[0]: Invalid value: \"z\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic, \
         rules[0].nonResourceURLs: Invalid value: [\"metrics\",\"/a*b\",\"*\"]: rules cannot apply to both regular resources and non-resource URLs]",
    );
    let other = |text: &str| Policy::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(other("apiVersion: v1\nkind: Pod"), "unknown group version field v1, Kind=Pod in policy");
    assert_eq!(other("a: 1"), "failed decoding: Object 'Kind' is missing");
    assert!(other("[").starts_with("failed decoding: "));
    assert!(policy("surprise: 1\nrules: [{level: None}]").is_ok());
}
