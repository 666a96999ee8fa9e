//! What keeping the owners of fields costs a create and an update of a small Pod, next to decoding it.
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;

use api::decode::{FieldValidation, Media, Target, decode};
use api::kinds::{Kind, by_kind};
use machinery::Object;
use machinery::fields::{Reset, Scope, Typed, Versions, apply, update};

const POD: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","namespace":"default","labels":{"app":"web","tier":"front"},"annotations":{"note":"x"}},"spec":{"containers":[{"name":"web","image":"registry.k8s.io/pause:3.10","ports":[{"containerPort":80,"name":"http"}],"env":[{"name":"A","value":"b"}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},"readinessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":5}}],"restartPolicy":"Always","nodeSelector":{"kubernetes.io/os":"linux"},"tolerations":[{"key":"x","operator":"Exists"}]}}"#;
const ROUNDS: u32 = 20_000;

struct One(&'static Kind);

impl Versions for One {
    fn typed(&self, _api_version: &str) -> Option<Typed<'_>> {
        Some(api::fields::typed(self.0.schema))
    }

    fn convert<'a>(&self, object: &'a Object, _api_version: &str) -> Cow<'a, Object> {
        Cow::Borrowed(object)
    }
}

fn main() {
    let kind = by_kind("", "v1", "Pod").expect("the table has Pod");
    let target = Target::of(kind);
    let each = |what: &str, run: &dyn Fn()| {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| run());
        println!("{what}: {:?} each", start.elapsed() / ROUNDS);
    };
    each("decode", &|| {
        black_box(decode(black_box(POD), Media::Json, &target, FieldValidation::Warn).ok());
    });
    let versions = One(kind);
    let scope = |manager| Scope {
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: Reset::Below(&[&["status"]]),
    };
    let pod = decode(POD, Media::Json, &target, FieldValidation::Warn).expect("a pod").object;
    each("copy", &|| {
        black_box(black_box(&pod).clone());
    });
    each("copy and create", &|| {
        let mut new = black_box(&pod).clone();
        update(&versions, &scope("one"), &Object::default(), &mut new);
        black_box(new);
    });
    let mut live = pod.clone();
    update(&versions, &scope("one"), &Object::default(), &mut live);
    live.set(&["metadata", "uid"], "u");
    each("copy with owners", &|| {
        black_box(black_box(&live).clone());
    });
    each("copy and update nothing", &|| {
        let mut new = black_box(&live).clone();
        update(&versions, &scope("two"), &live, &mut new);
        black_box(new);
    });
    each("copy and update a label", &|| {
        let mut new = black_box(&live).clone();
        new.set(&["metadata", "labels", "app"], "other");
        update(&versions, &scope("two"), &live, &mut new);
        black_box(new);
    });
    each("apply", &|| {
        black_box(apply(&versions, &scope("three"), &live, black_box(&pod), true).ok());
    });
}
