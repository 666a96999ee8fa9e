use super::*;

const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";

fn webhook(change: &[(&str, &str)]) -> String {
    let mut fields = vec![
        ("timeout", "3s"),
        ("subjectAccessReviewVersion", "v1"),
        ("failurePolicy", "Deny"),
        ("connectionInfo", "{type: KubeConfigFile, kubeConfigFile: /w}"),
    ];
    for (key, value) in change {
        match fields.iter_mut().find(|(k, _)| k == key) {
            Some(field) => field.1 = value,
            None => fields.push((key, value)),
        }
    }
    let fields = fields.into_iter().filter(|(_, v)| *v != "-");
    let fields: Vec<String> = fields.map(|(k, v)| format!("{k}: {v}")).collect();
    format!("{HEAD}authorizers: [{{type: Webhook, name: w, webhook: {{{}}}}}]\n", fields.join(", "))
}

fn refused(text: &str) -> String {
    parse(text).err().map(|e| e.0).unwrap_or_default()
}

#[test]
fn files_name_modes_in_order() {
    let text = format!(
        "{HEAD}authorizers:\n- {{type: Node, name: node}}\n- {{type: Webhook, name: a.example, webhook: {{timeout: 3s, \
         authorizedTTL: 1m, cacheUnauthorizedRequests: false, subjectAccessReviewVersion: v1beta1, \
         matchConditionSubjectAccessReviewVersion: v1, failurePolicy: NoOpinion, connectionInfo: {{type: \
         KubeConfigFile, kubeConfigFile: /etc/w}}}}}}\n- {{type: RBAC, name: rbac}}\n"
    );
    let options = Options {
        version: Version::V1beta1,
        authorized_ttl: Duration::from_secs(60),
        unauthorized_ttl: Duration::ZERO,
        on_error: Decision::NoOpinion,
    };
    let webhook = WebhookMode { kubeconfig: "/etc/w".into(), timeout: Duration::from_secs(3), options };
    assert_eq!(parse(&text), Ok(vec![Mode::Node, Mode::Webhook(Box::new(webhook)), Mode::Rbac]));
    let json = r#"{"apiVersion":"apiserver.config.k8s.io/v1beta1","kind":"AuthorizationConfiguration",
        "authorizers":[{"type":"AlwaysAllow","name":"all"}]}"#;
    assert_eq!(parse(json), Ok(vec![Mode::AlwaysAllow]));
}

#[test]
fn webhooks_have_upstreams_defaults() {
    let Ok(Some(Mode::Webhook(w))) = parse(&webhook(&[])).map(|mut m| m.pop()) else { panic!("it is good") };
    let options = Options {
        version: Version::V1,
        authorized_ttl: AUTHORIZED_TTL,
        unauthorized_ttl: UNAUTHORIZED_TTL,
        on_error: Decision::Deny,
    };
    assert_eq!((&w.options, w.timeout), (&options, Duration::from_secs(3)));
}

#[test]
fn what_is_wrong_is_told_with_its_path() {
    for (authorizers, want) in [
        ("[]", "authorizers: Required value: at least one authorization mode must be defined"),
        ("[{name: x}]", "authorizers[0].type: Required value"),
        (
            "[{type: Magic, name: x}]",
            "authorizers[0].type: Unsupported value: \"Magic\": supported values: \"ABAC\", \"AlwaysAllow\", \
             \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
        ),
        ("[{type: RBAC, name: a}, {type: RBAC, name: b}]", "authorizers[1].type: Duplicate value: \"RBAC\""),
        ("[{type: RBAC, name: a}, {type: Node, name: a}]", "authorizers[1].name: Duplicate value: \"a\""),
        ("[{type: RBAC}]", "authorizers[0].name: Required value"),
        ("[{type: RBAC, name: A_B}]", "authorizer name is invalid: a lowercase RFC 1123 subdomain"),
        ("[{type: Webhook, name: w}]", "authorizers[0].webhook: Required value: required when type=Webhook"),
        (
            "[{type: RBAC, name: w, webhook: {}}]",
            "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
        ),
        ("[{type: RBAC, name: w, extra: 1}]", "unknown field"),
    ] {
        let got = refused(&format!("{HEAD}authorizers: {authorizers}\n"));
        assert!(got.contains(want), "{authorizers}: {got}");
    }
    for (change, want) in [
        (("timeout", "-"), "authorizers[0].timeout: Required value"),
        (("timeout", "31s"), "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s"),
        (("timeout", "-1s"), "must be > 0s and <= 30s"),
        (("timeout", "soon"), "time: invalid duration"),
        (("authorizedTTL", "-5s"), "authorizers[0].authorizedTTL: Invalid value: \"-5s\": must be > 0s"),
        (("subjectAccessReviewVersion", "-"), "authorizers[0].subjectAccessReviewVersion: Required value"),
        (("subjectAccessReviewVersion", "v2"), "supported values: \"v1\", \"v1beta1\""),
        (("matchConditionSubjectAccessReviewVersion", "v2"), "supported values: \"v1\""),
        (("failurePolicy", "-"), "authorizers[0].failurePolicy: Required value"),
        (("failurePolicy", "Allow"), "supported values: \"Deny\", \"NoOpinion\""),
        (("connectionInfo", "-"), "authorizers[0].connectionInfo.type: Required value"),
        (("connectionInfo", "{type: KubeConfigFile}"), "connectionInfo.kubeConfigFile: Required value"),
        (("connectionInfo", "{type: KubeConfigFile, kubeConfigFile: w}"), "must be an absolute path"),
        (("connectionInfo", "{type: InClusterConfig}"), "has no cluster around it"),
        (("connectionInfo", "{type: DNS}"), "supported values: \"InClusterConfig\", \"KubeConfigFile\""),
        (("matchConditions", "[{expression: 'true'}]"), "CEL expressions are not supported here"),
        (("matchConditions", "[{expression: 'true'}]"), "required if match conditions are specified"),
        (("matchConditions", "[{expression: ' '}]"), "matchConditions[0].expression: Required value"),
    ] {
        let got = refused(&webhook(&[change]));
        assert!(got.contains(want), "{change:?}: {got}");
    }
    let many = format!("[{}]", vec!["{expression: a}"; 65].join(", "));
    assert!(refused(&webhook(&[("matchConditions", &many)])).contains("must have at most 64 items"));
    assert!(refused("kind: Pod\napiVersion: v1\n").contains("no kind \"Pod\" is registered"));
    assert!(!refused("{").is_empty());
}

#[test]
fn flags_are_checked_as_upstreams() {
    let modes = |modes: &[&str]| AuthorizationFlags {
        modes: Some(modes.iter().map(|m| (*m).to_owned()).collect()),
        ..AuthorizationFlags::default()
    };
    assert_eq!(AuthorizationFlags::default().settled(), Ok(vec![Mode::AlwaysAllow]));
    assert_eq!(modes(&["Node", "RBAC"]).settled(), Ok(vec![Mode::Node, Mode::Rbac]));
    let hook = |flags: AuthorizationFlags| AuthorizationFlags { webhook: Some("/w".into()), ..flags };
    let Ok(Some(Mode::Webhook(w))) = hook(modes(&["RBAC", "Webhook"])).settled().map(|mut m| m.pop()) else {
        panic!("it is good");
    };
    assert_eq!((w.options.version, w.options.on_error), (Version::V1beta1, Decision::NoOpinion));
    assert_eq!((w.options.authorized_ttl, w.options.unauthorized_ttl), (AUTHORIZED_TTL, UNAUTHORIZED_TTL));
    for (flags, want) in [
        (modes(&[]), "at least one authorization-mode must be passed"),
        (modes(&["RBAC", "RBAC"]), "authorization-mode \"RBAC\" has mode specified more than once"),
        (modes(&["rbac"]), "authorization-mode \"rbac\" is not a valid mode"),
        (modes(&["ABAC"]), "authorization-mode ABAC's authorization policy file not passed"),
        (modes(&["Webhook"]), "authorization-mode Webhook's authorization config file not passed"),
        (hook(modes(&["RBAC"])), "cannot specify --authorization-webhook-config-file without mode Webhook"),
        (
            AuthorizationFlags { has_policy_file: true, ..modes(&["RBAC"]) },
            "cannot specify --authorization-policy-file without mode ABAC",
        ),
        (
            AuthorizationFlags { webhook_version: Some("v2".into()), ..hook(modes(&["Webhook"])) },
            "unsupported webhook authorizer version \"v2\"",
        ),
        (
            AuthorizationFlags { has_config_file: true, ..modes(&["RBAC"]) },
            "--authorization-config can not be specified when --authorization-mode",
        ),
        (
            AuthorizationFlags {
                has_config_file: true,
                authorized_ttl: Some(Duration::from_secs(1)),
                ..AuthorizationFlags::default()
            },
            "--authorization-webhook-* flags are defined",
        ),
    ] {
        let got = flags.clone().settled().err().map(|e| e.0).unwrap_or_default();
        assert!(got.contains(want), "{flags:?}: {got}");
    }
}
