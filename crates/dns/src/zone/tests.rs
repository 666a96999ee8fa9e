use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::*;

fn put(index: &mut Index, name: &str, spec: Value, endpoints: Value) {
    let service: Service = serde_json::from_value(json!({"spec": spec})).expect("a Service");
    let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
    .expect("an EndpointSlice");
    let entry = Entry::new(&service, &[Arc::new(slice)]);
    index.set_service(&ObjectKey::new("shop", name), entry, 7);
}

fn index() -> Index {
    let mut index = Index::new("cluster.local.".parse().expect("a name"));
    index.set_namespace("shop", true);
    let http = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    put(&mut index, "web", json!({"clusterIP": "10.96.0.7", "ports": http}), json!([]));
    put(
        &mut index,
        "dual",
        json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00::8"]}),
        json!([]),
    );
    let pods = json!([{"addresses": ["10.244.1.3"], "hostname": "db-0"}, {"addresses": ["10.244.2.4"]},
        {"addresses": ["10.244.2.5"], "conditions": {"ready": false}}]);
    put(&mut index, "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}), pods);
    put(&mut index, "empty", json!({"clusterIP": "None"}), json!([]));
    put(&mut index, "out", json!({"type": "ExternalName", "externalName": "www.example.org"}), json!([]));
    index
}

fn zone() -> Zone {
    Zone {
        ttl: 30,
        dns_ips: vec![[10, 96, 0, 10].into()],
        networks: ["10.96.0.0/12", "10.244.0.0/16"].map(|n| n.parse().expect("a network")).into(),
    }
}

/// The answer in words: records as `TYPE data`, or what is missing.
fn ask(index: &Index, name: &str, kind: RecordType) -> String {
    let spelled: Name = name.parse().expect("a name");
    let text = |records: &[Record]| {
        let texts: Vec<_> = records.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
        texts.join(", ")
    };
    match zone().answer(index, &spelled.to_lowercase(), &spelled, kind) {
        Answer::Found { answers, additionals } => {
            assert!(answers.iter().all(|r| r.name == spelled && r.name.eq_case(&spelled) && r.ttl == 30));
            match additionals.as_slice() {
                [] => text(&answers),
                more => format!("{} + {}", text(&answers), text(more)),
            }
        }
        Answer::Alias(record) => text(&[record]),
        Answer::NoData(soa) => {
            assert_eq!(soa.record_type(), RecordType::SOA);
            format!("no data, says {}", soa.name)
        }
        Answer::NoName(soa) => {
            assert_eq!(soa.record_type(), RecordType::SOA);
            format!("no name, says {}", soa.name)
        }
        Answer::Foreign => "foreign".into(),
    }
}

#[test]
fn answers_as_the_specification_says() {
    use RecordType as T;
    let index = index();
    let no_data = "no data, says cluster.local.";
    let no_name = "no name, says cluster.local.";
    let cases: &[(&str, RecordType, &str)] = &[
        // Services with an address of their own.
        ("web.shop.svc.cluster.local.", T::A, "A 10.96.0.7"),
        ("WEB.Shop.svc.Cluster.LOCAL.", T::A, "A 10.96.0.7"),
        ("web.shop.svc.cluster.local.", T::AAAA, no_data),
        ("web.shop.svc.cluster.local.", T::TXT, no_data),
        ("web.shop.svc.cluster.local.", T::ANY, no_data),
        ("dual.shop.svc.cluster.local.", T::AAAA, "AAAA fd00::8"),
        ("dual.shop.svc.cluster.local.", T::A, "A 10.96.0.8"),
        ("gone.shop.svc.cluster.local.", T::A, no_name),
        ("web.other.svc.cluster.local.", T::A, no_name),
        ("x.web.shop.svc.cluster.local.", T::A, no_name),
        // Ports.
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            T::SRV,
            "SRV 0 100 80 web.shop.svc.cluster.local. + A 10.96.0.7",
        ),
        (
            "_dns._udp.web.shop.svc.cluster.local.",
            T::SRV,
            "SRV 0 100 53 web.shop.svc.cluster.local. + A 10.96.0.7",
        ),
        ("_http._tcp.web.shop.svc.cluster.local.", T::A, no_data),
        ("_tcp.web.shop.svc.cluster.local.", T::A, no_data),
        ("_sctp.web.shop.svc.cluster.local.", T::A, no_name),
        ("_http._udp.web.shop.svc.cluster.local.", T::SRV, no_name),
        ("http._tcp.web.shop.svc.cluster.local.", T::SRV, no_name),
        ("_http._tcp.empty.shop.svc.cluster.local.", T::SRV, no_name),
        (
            "web.shop.svc.cluster.local.",
            T::SRV,
            "SRV 0 50 80 web.shop.svc.cluster.local., SRV 0 50 53 web.shop.svc.cluster.local. + A 10.96.0.7",
        ),
        // Headless ones.
        ("db.shop.svc.cluster.local.", T::A, "A 10.244.1.3, A 10.244.2.4"),
        ("db-0.db.shop.svc.cluster.local.", T::A, "A 10.244.1.3"),
        ("db-0.db.shop.svc.cluster.local.", T::AAAA, no_data),
        ("10-244-2-4.db.shop.svc.cluster.local.", T::A, "A 10.244.2.4"),
        ("10-244-2-5.db.shop.svc.cluster.local.", T::A, no_name),
        (
            "_http._tcp.db.shop.svc.cluster.local.",
            T::SRV,
            "SRV 0 50 8080 db-0.db.shop.svc.cluster.local., SRV 0 50 8080 10-244-2-4.db.shop.svc.cluster.local. \
             + A 10.244.1.3, A 10.244.2.4",
        ),
        ("empty.shop.svc.cluster.local.", T::A, no_data),
        // Aliases.
        ("out.shop.svc.cluster.local.", T::A, "CNAME www.example.org."),
        ("out.shop.svc.cluster.local.", T::CNAME, "CNAME www.example.org."),
        ("_http._tcp.out.shop.svc.cluster.local.", T::SRV, no_name),
        // Pods.
        ("10-244-1-3.shop.pod.cluster.local.", T::A, "A 10.244.1.3"),
        ("10-244-1-3.shop.pod.cluster.local.", T::AAAA, no_data),
        ("10-244-1-3.other.pod.cluster.local.", T::A, no_name),
        ("web.shop.pod.cluster.local.", T::A, no_name),
        // The zone itself.
        ("dns-version.cluster.local.", T::TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local.", T::A, no_data),
        ("cluster.local.", T::A, no_data),
        ("cluster.local.", T::NS, "NS ns.dns.cluster.local. + A 10.96.0.10"),
        (
            "cluster.local.",
            T::SOA,
            "SOA ns.dns.cluster.local. hostmaster.cluster.local. 11 7200 1800 86400 30",
        ),
        ("ns.dns.cluster.local.", T::A, "A 10.96.0.10"),
        ("svc.cluster.local.", T::A, no_data),
        ("shop.svc.cluster.local.", T::A, no_data),
        ("other.svc.cluster.local.", T::A, no_name),
        ("nothing.cluster.local.", T::A, no_name),
        ("a.b.c.d.e.f.cluster.local.", T::A, no_name),
        // Addresses.
        ("7.0.96.10.in-addr.arpa.", T::PTR, "PTR web.shop.svc.cluster.local."),
        ("3.1.244.10.in-addr.arpa.", T::PTR, "PTR db-0.db.shop.svc.cluster.local."),
        ("4.2.244.10.in-addr.arpa.", T::PTR, "PTR 10-244-2-4.db.shop.svc.cluster.local."),
        ("7.0.96.10.in-addr.arpa.", T::A, no_data),
        ("9.9.244.10.in-addr.arpa.", T::PTR, "no name, says in-addr.arpa."),
        ("244.10.in-addr.arpa.", T::PTR, "no data, says in-addr.arpa."),
        ("8.8.8.8.in-addr.arpa.", T::PTR, "foreign"),
        (
            "8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            T::PTR,
            "PTR dual.shop.svc.cluster.local.",
        ),
        // Others'.
        ("www.example.org.", T::A, "foreign"),
        ("local.", T::A, "foreign"),
        ("web.shop.svc.", T::A, "foreign"),
        (".", T::NS, "foreign"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(&index, name, *kind), *expected, "{name} {kind}");
    }
}

#[test]
fn a_service_that_changes_its_type_changes_its_answers() {
    let mut index = index();
    let ask = |index: &Index, name: &str, kind| ask(index, name, kind);
    put(&mut index, "web", json!({"type": "ExternalName", "externalName": "else.example.org"}), json!([]));
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", RecordType::A), "CNAME else.example.org.");
    assert_eq!(ask(&index, "7.0.96.10.in-addr.arpa.", RecordType::PTR), "no name, says in-addr.arpa.");
    put(&mut index, "web", json!({"clusterIP": "10.96.0.9"}), json!([]));
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", RecordType::A), "A 10.96.0.9");
    assert_eq!(ask(&index, "9.0.96.10.in-addr.arpa.", RecordType::PTR), "PTR web.shop.svc.cluster.local.");
    index.set_service(&ObjectKey::new("shop", "web"), None, 7);
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", RecordType::A), "no name, says cluster.local.");
    assert_eq!(ask(&index, "9.0.96.10.in-addr.arpa.", RecordType::PTR), "no name, says in-addr.arpa.");
    index.set_namespace("shop", false);
    assert_eq!(ask(&index, "shop.svc.cluster.local.", RecordType::A), "no name, says cluster.local.");
}

#[test]
fn labels_of_any_bytes_find_nothing_and_break_nothing() {
    let index = index();
    let long = vec![b'a'; 63];
    for labels in [
        vec![&long[..], &long, b"svc", b"cluster", b"local"],
        vec![b"\xff\xfe\x00", b"shop", b"pod", b"cluster", b"local"],
        vec![b"_", b"_", b"web", b"shop", b"svc", b"cluster", b"local"],
        vec![&b"web.shop"[..], b"svc", b"cluster", b"local"],
    ] {
        let name = Name::from_labels(labels).expect("a name");
        let answer = zone().answer(&index, &name.to_lowercase(), &name, RecordType::A);
        assert!(matches!(answer, Answer::NoName(_)), "{name}: {answer:?}");
    }
}
