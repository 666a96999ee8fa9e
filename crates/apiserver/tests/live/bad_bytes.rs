//! The fuzz targets' functions, on what is nearly right: a valid input with a few mistakes in it.
use proptest::collection::vec;
use proptest::prelude::*;

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
