use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn check(resources: &str, expect: &str) {
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n{resources}");
    let got = Configuration::parse(text.as_bytes(), false).err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(got, expect, "{resources}");
    assert!(!got.contains(KEY));
}

fn one(provider: &str) -> String {
    format!("resources: [{{resources: [secrets], providers: [{provider}]}}]")
}

#[test]
fn both_forms_of_the_guides_are_read() {
    for head in [
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration",
        "kind: EncryptionConfig\napiVersion: v1",
    ] {
        let text = format!(
            "{head}\nresources:\n  - resources:\n      - secrets\n    providers:\n      - aescbc:\n          keys:\n            - name: key1\n              secret: {KEY}\n      - identity: {{}}\n"
        );
        let config = Configuration::parse(text.as_bytes(), true).unwrap();
        assert_eq!(config.resources().map(|r| r.to_string()).collect::<Vec<_>>(), ["secrets"]);
        assert_eq!(config.resources[0].providers.len(), 2);
        assert!(!format!("{config:?}").contains(KEY));
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let check = |text: &str, expect: &str| {
        let got = Configuration::parse(text.as_bytes(), false).unwrap_err().to_string();
        assert_eq!(got, expect);
    };
    check("kind: Pod\napiVersion: v1", "no kind \"Pod\" is registered for version \"v1\"");
    check("apiVersion: v1", "Object 'Kind' is missing");
    check("kind: EncryptionConfiguration", "Object 'apiVersion' is missing");
    let broken = format!("kind: [\nsecret: {KEY}");
    let got = Configuration::parse(broken.as_bytes(), false).unwrap_err().to_string();
    assert!(got.starts_with("error converting YAML to JSON") && !got.contains(KEY), "{got}");
    check(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nfoo: 1\nresources: [{provider: [], resources: [a], providers: [{identity: {x: 1}}]}]",
        "strict decoding error: unknown field \"foo\", unknown field \"resources[0].provider\", unknown field \"resources[0].providers[0].identity.x\"",
    );
}

#[test]
fn every_problem_is_named() {
    check("", "resources: Required value: at least one resources is required");
    check(
        "resources: [{}]",
        "[resources[0].resources: Required value: at least one resources[0].resources is required, resources[0].providers: Required value: at least one resources[0].providers is required]",
    );
    check(
        &one("{}"),
        "resources[0].providers[0]: Invalid value: {}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
    );
    check(
        &one(&format!("{{identity: {{}}, aescbc: {{keys: [{{name: a, secret: {KEY}}}]}}}}")),
        "resources[0].providers[0]: Invalid value: \"AESCBC, Identity\": more than one provider specified in a single element, should split into different list elements",
    );
    check(
        &one("{aescbc: {keys: []}}"),
        "resources[0].providers[0].aescbc.keys: Required value: at least one keys is required",
    );
    check(
        &one(
            "{aescbc: {keys: [{secret: AAAA}, {name: b}, {name: c, secret: '*'}]}}, {secretbox: {keys: [{name: d, secret: AAAA}]}}",
        ),
        "[resources[0].providers[0].aescbc.keys[0].name: Required value: name is a mandatory field for a key, \
         resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [16 24 32], \
         resources[0].providers[0].aescbc.keys[1].secret: Required value: secret is a mandatory field for a key, \
         resources[0].providers[0].aescbc.keys[2].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded, \
         resources[0].providers[1].secretbox.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [32]]",
    );
}

#[test]
fn names_of_resources_are_checked() {
    for (resources, expect) in [
        ("[secrets, '*.apps', widgets.example.com]", ""),
        ("['*.*']", ""),
        (
            "[Secrets]",
            "resources[0].resources[0]: Invalid value: \"Secrets\": resource name should not contain capital letters",
        ),
        (
            "['*']",
            "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        ),
        (
            "[events.events.k8s.io]",
            "resources[0].resources[0]: Invalid value: \"events.events.k8s.io\": '*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (
            "['pods.*']",
            "resources[0].resources[0]: Invalid value: \"pods.*\": encrypting the same resource across groups is not supported",
        ),
        (
            "[serviceipallocations]",
            "resources[0].resources[0]: Invalid value: \"serviceipallocations\": resources which do not have REST API/s cannot be encrypted",
        ),
        (
            "[a, a]",
            "resources[0].resources: Invalid value: [\"a\",\"a\"]: the same resource cannot be specified multiple times",
        ),
        (
            "[secrets, '*.']",
            "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
        ),
        (
            "[a.b, '*.*']",
            "resources[0].resources: Invalid value: [\"a.b\",\"*.*\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
        ),
    ] {
        check(&format!("resources: [{{resources: {resources}, providers: [{{identity: {{}}}}]}}]"), expect);
    }
}

#[test]
fn key_servers_are_checked() {
    check(&one("{kms: {apiVersion: v2, name: a, endpoint: 'unix:///x', timeout: 1m0.5s}}"), "");
    check(
        &one(
            "{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x', timeout: -1s, cachesize: 5}}, {kms: {apiVersion: v2, name: 'a:b'}}",
        ),
        "[resources[0].providers[0].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':', \
         resources[0].providers[0].kms.timeout: Invalid value: \"-1s\": timeout should be a positive value, \
         resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://x\": unsupported scheme \"tcp\" for KMS provider, only unix is supported, \
         resources[0].providers[0].kms.cachesize: Invalid value: 5: cachesize is not supported in v2, \
         resources[0].providers[1].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':', \
         resources[0].providers[1].kms.name: Invalid value: \"a:b\": duplicate KMS provider name a:b, names must be unique, \
         resources[0].providers[1].kms.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms]",
    );
    check(
        &one("{kms: {name: a, endpoint: 'unix:///x'}}"),
        "resources[0].providers[0].kms.apiVersion: Invalid value: \"v1\": KMSv1 is deprecated and has been removed here. Use KMSv2 instead: set apiVersion: v2",
    );
}
