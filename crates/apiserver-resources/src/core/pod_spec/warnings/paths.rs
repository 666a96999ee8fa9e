//! Files of a volume that lie where others lie.
use crate::tree::At;

/// A file, and what it comes from, where that has to be said.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn show(&self) -> String {
        if self.source.is_empty() {
            format!("{:?}", self.path)
        } else {
            format!("{:?} ({})", self.path, self.source)
        }
    }

    /// Whether one lies in the other, or both are the same.
    fn meets(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| format!("{inner}/").starts_with(&format!("{outer}/"));
        !other.path.is_empty() && (within(&other.path, &self.path) || within(&self.path, &other.path))
    }
}

fn items(source: &At, name: &str) -> Vec<File> {
    let path = |item: At| File { path: item.field("path").text().to_owned(), source: name.to_owned() };
    source.field("items").items().map(path).collect()
}

/// Adds files to those before, and tells which meet.
fn add(all: &mut Vec<File>, files: Vec<File>) -> Vec<String> {
    let mut found = Vec::new();
    for mut file in files {
        file.path.truncate(file.path.trim_end_matches('/').len());
        if !file.path.is_empty() {
            let met = all.iter().filter(|other| file.meets(other));
            found.extend(met.map(|other| format!("{} with {}", file.show(), other.show())));
        }
        all.push(file);
    }
    found
}

/// The files of one source of a projected volume.
fn projected(source: &At) -> Vec<File> {
    let one = |path: &str, name: String| vec![File { path: path.to_owned(), source: name }];
    let (map, secret) = (source.field("configMap"), source.field("secret"));
    let (token, bundle) = (source.field("serviceAccountToken"), source.field("clusterTrustBundle"));
    let certificate = source.field("podCertificate");
    if map.field("items").exists() {
        return items(&map, &format!("ConfigMap {:?}", map.field("name").text()));
    }
    if secret.field("items").exists() {
        return items(&secret, &format!("Secret {:?}", secret.field("name").text()));
    }
    if source.field("downwardAPI").field("items").exists() {
        return items(&source.field("downwardAPI"), "DownwardAPI");
    }
    if token.exists() {
        return one(token.field("path").text(), "ServiceAccountToken".to_owned());
    }
    if bundle.exists() {
        let name =
            if bundle.field("name").exists() { bundle.field("name") } else { bundle.field("signerName") };
        return one(bundle.field("path").text(), format!("ClusterTrustBundle {:?}", name.text()));
    }
    let parts = [
        (certificate.field("certificateChainPath"), "PodCertificate chain"),
        (certificate.field("keyPath"), "PodCertificate key"),
        (certificate.field("credentialBundlePath"), "PodCertificate credential bundle"),
    ];
    let parts = parts.into_iter().filter(|(path, _)| !path.text().is_empty());
    parts.map(|(path, name)| File { path: path.text().to_owned(), source: name.to_owned() }).collect()
}

/// Finds them in the volumes of a pod.
pub(super) fn paths(volumes: &At, found: &mut Vec<String>) {
    for volume in volumes.items() {
        let name = volume.field("name").text();
        let (map, secret) = (volume.field("configMap"), volume.field("secret"));
        let down = volume.field("downwardAPI");
        let mut tell = |what: &str, overlaps: Vec<String>| {
            let text = |o: String| format!("volume {name:?} ({what}): overlapping paths: {o}");
            found.extend(overlaps.into_iter().map(text));
        };
        let of = |source: &At| add(&mut Vec::new(), items(source, ""));
        tell(&format!("ConfigMap {:?}", map.field("name").text()), of(&map));
        tell(&format!("Secret {:?}", secret.field("secretName").text()), of(&secret));
        tell("DownwardAPI", of(&down));
        let mut all = Vec::new();
        for source in volume.field("projected").field("sources").items() {
            if source.tree().is_some_and(|tree| tree.values().all(serde_json::Value::is_null)) {
                found.push(format!("volume {name:?} (Projected) has no sources provided"));
                continue;
            }
            let overlaps = add(&mut all, projected(&source));
            let text = |o: String| format!("volume {name:?} (Projected): overlapping paths: {o}");
            found.extend(overlaps.into_iter().map(text));
        }
    }
}
