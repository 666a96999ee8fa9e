//! The fuzz targets' functions, on what is nearly right: a valid input with a few mistakes in it.
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../../../fuzz/guards.rs"]
mod guards;
#[path = "../../../../fuzz/wire.rs"]
mod wire;

/// A mistake: where (as a share of the input), what, and with which byte.
type Mistake = (f64, u8, u8);

fn spoil(seed: &[u8], mistakes: &[Mistake]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (at, what, byte) in mistakes {
        let at = ((bytes.len() as f64) * at) as usize;
        if at >= bytes.len() {
            continue;
        }
        let end = (at + usize::from(*byte % 16)).min(bytes.len());
        match what % 6 {
            0 => bytes[at] = *byte,
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes[at] ^= 1 << (byte % 8),
            4 => bytes.truncate(at),
            _ => bytes.insert(at, *byte),
        }
    }
    bytes
}

fn check(run: fn(&[u8]), seeds: &'static [&'static [u8]]) {
    for seed in seeds {
        run(seed);
    }
    let nearly = (proptest::sample::select(seeds), vec((0.0..1.0, any::<u8>(), any::<u8>()), 0..6));
    let cases = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(cases, |((seed, mistakes) in nearly, noise in vec(any::<u8>(), 0..64))| {
        run(&spoil(seed, &mistakes));
        run(&noise);
    });
}

#[test]
fn json_bodies() {
    check(
        wire::json,
        &[
            br#"!{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"a":"b"}},"data":{"k":"v"}}"#,
            br#"7{"metadata":{"name":"a","creationTimestamp":null},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1","memory":2}}}]}}"#,
            b"0[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
            br#"a{"metadata":{"name":"\ud800"},"spec":{"replicas":1e3,"selector":{"matchLabels":{"a":"b"}}}}"#,
        ],
    );
}

#[test]
fn yaml_bodies() {
    check(
        wire::yaml,
        &[
            b"!apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: |\n    v\n  n: \"1\"\n",
            b"7metadata: &m {name: a}\nspec:\n  containers:\n  - name: c\n    image: i\n  - <<: *m\n",
            b"0- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - a",
            b"5a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\ne: [*d,*d]\n",
        ],
    );
}

#[test]
fn protobuf_bodies() {
    check(
        wire::protobuf,
        &[
            b"!k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0f\x0a\x05\x0a\x01a\x12\x00\x12\x06\x0a\x01k\x12\x01v\x1a\x00\x22\x00",
            b"7k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x05\x0a\x03\x0a\x01a",
            b"0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ],
    );
}

#[test]
fn selectors() {
    check(
        wire::selectors,
        &[
            b"a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5,m<6",
            b"example.com/a==b",
            b"metadata.name=a\\,b\\=c,spec.nodeName!=d",
        ],
    );
}

#[test]
fn quantities() {
    check(
        wire::quantities,
        &[b"1.5Gi 100m", b"12e6", b"-1.0001k 9223372036854775807", b"1E", b"0.000000001n"],
    );
}

#[test]
fn patches() {
    check(
        wire::patches,
        &[
            b"7{\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"x\"}]}}\0{\"spec\":{\"containers\":[{\"$patch\":\"delete\",\"name\":\"a\"}],\"$setElementOrder/containers\":[{\"name\":\"b\"}]}}",
            b"7{\"metadata\":{\"labels\":{\"a\":\"b\"}}}\0[{\"op\":\"replace\",\"path\":\"/metadata/labels/a\",\"value\":1},{\"op\":\"move\",\"from\":\"/metadata\",\"path\":\"/x\"}]",
            b"7{\"metadata\":{\"finalizers\":[\"a\",\"b\"]}}\0{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"a\"],\"$retainKeys\":[\"name\"]}}",
        ],
    );
}

#[test]
fn continue_tokens() {
    check(
        wire::continue_tokens,
        &[b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0", b"e30", b"eyJydiI6MX0="],
    );
}

#[test]
fn tokens_and_keys_of_issuers() {
    check(
        guards::jwt,
        &[
            b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2kiLCJhdWQiOiJhIiwic3ViIjoieCIsImV4cCI6OTIyMzM3MjAzNjg1NDc3NTgwNywibmJmIjowfQ.AAAA\0{\"keys\":[{\"kty\":\"RSA\",\"use\":\"sig\",\"kid\":\"a\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
            b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2kiLCJhdWQiOlsiYSJdLCJleHAiOjFlMzAwLCJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6ImEifX0.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}",
            b"eyJhbGciOiJub25lIn0.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50Iiwic3ViIjoieCJ9.",
            b"token,user,uid,\"a,b\"\n",
        ],
    );
}

#[test]
fn certificates() {
    check(
        guards::certificates,
        &[
            guards::LEAF,
            include_bytes!("../../../../fuzz/seeds/ca.pem"),
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ],
    );
}

#[test]
fn headers_of_proxies() {
    check(
        guards::front_proxy,
        &[b"x-remote-user:jane\nx-remote-group:a\nx-remote-group:b\nx-remote-extra-a%2fb%:c\nx-remote-uid:1", b"x-remote-user:\xc3\xb6"],
    );
}

#[test]
fn policies_of_abac() {
    check(
        guards::abac,
        &[
            br#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"jane","namespace":"*","resource":"pods","readonly":true}}"#,
            b"# comment\n{\"user\":\"jane\",\"nonResourcePath\":\"/m*\"}\n",
        ],
    );
}

#[test]
fn configurations_of_authorization() {
    check(
        guards::authorization,
        &[
            b"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: Webhook, name: w, webhook: {timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /w}}}\n- {type: RBAC, name: r}\n",
            br#"{"kind":"SubjectAccessReview","status":{"allowed":true,"denied":false,"reason":"x"}}"#,
            b"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'https://i', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n",
        ],
    );
}

#[test]
fn configurations_of_admission() {
    check(
        guards::admission,
        &[
            b"apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- {name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: baseline, enforce-version: v1.30}, exemptions: {usernames: [a]}}}\n- {name: EventRateLimit, configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: User, qps: 1, burst: 1, cacheSize: 9223372036854775807}]}}\n",
        ],
    );
}

#[test]
fn policies_of_audit() {
    check(
        guards::audit_policy,
        &[
            b"apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: None, users: [a], verbs: [watch], resources: [{group: '', resources: [pods, 'pods/*']}]}\n- {level: Metadata, nonResourceURLs: ['/healthz*'], namespaces: [n]}\n- {level: RequestResponse, omitManagedFields: true}\n",
        ],
    );
}

#[test]
fn configurations_of_encryption() {
    check(
        guards::encryption,
        &[
            b"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps', '*.*']\n  providers:\n  - aescbc: {keys: [{name: a, secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}]}\n  - kms: {apiVersion: v2, name: k, endpoint: 'unix:///k.sock', timeout: 3s}\n  - identity: {}\n",
        ],
    );
}

#[test]
fn owned_fields() {
    check(
        wire::owned_fields,
        &[
            b"![{\"apiVersion\":\"v1\",\"fieldsType\":\"FieldsV1\",\"manager\":\"x\",\"operation\":\"Update\",\"fieldsV1\":{\"f:data\":{\".\":{},\"f:a\":{}},\"f:metadata\":{\"f:labels\":{}}}}]\0{\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":\"b\"}}",
            b"7[{\"apiVersion\":\"v1\",\"fieldsType\":\"FieldsV1\",\"manager\":\"x\",\"operation\":\"Apply\",\"time\":\"2026-01-01T00:00:00Z\",\"fieldsV1\":{\"f:spec\":{\"f:containers\":{\"k:{\\\"name\\\":\\\"c\\\"}\":{\".\":{},\"f:image\":{},\"f:args\":{\"i:0\":{}}}},\"f:finalizers\":{\"v:\\\"a\\\"\":{}}}}}]\0{\"metadata\":{\"name\":\"a\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}",
            b"0[]\0{}",
        ],
    );
}
