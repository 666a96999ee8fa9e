//! How fast a small Pod is decoded by the schema, next to parsing it as plain JSON.
use std::hint::black_box;
use std::time::Instant;

use api::decode::{FieldValidation, Media, Target, decode};
use api::kinds::by_kind;

const POD: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-0","namespace":"default","labels":{"app":"web","tier":"front"},"annotations":{"note":"x"}},"spec":{"containers":[{"name":"web","image":"registry.k8s.io/pause:3.10","ports":[{"containerPort":80,"name":"http"}],"env":[{"name":"A","value":"b"}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},"readinessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":5}}],"restartPolicy":"Always","nodeSelector":{"kubernetes.io/os":"linux"},"tolerations":[{"key":"x","operator":"Exists"}]}}"#;
const ROUNDS: u32 = 20_000;

fn main() {
    let target = Target::of(by_kind("", "v1", "Pod").expect("the table has Pod"));
    let each = |what: &str, run: &dyn Fn()| {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| run());
        println!("{what}: {:?} each", start.elapsed() / ROUNDS);
    };
    each("plain JSON", &|| {
        black_box(serde_json::from_slice::<serde_json::Value>(black_box(POD)).ok());
    });
    each("by the schema", &|| {
        black_box(decode(black_box(POD), Media::Json, &target, FieldValidation::Strict).ok());
    });
}
